"""IoU of predictions saved as label PNGs, named as their images, against the label files below a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddle_adaptseg.lab.commands.arguments import parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gt_dir", help="folder with label files, e.g. Cityscapes gtFine/val")
    parser.add_argument("pred_dir", help="folder with predictions, e.g. the one of eval --save")
    parser.add_argument("--dataset", default="cityscapes", help="data set that the label files belong to")
    parser.add_argument("--classes", default="cityscapes_19", help="classes that the predicted indices stand for")
    parser.add_argument("--protocols", default="", help="comma-separated class sets to report; default: all classes")
    args = parse(parser)
    from paddle_adaptseg.core import runtime

    runtime.import_paddle()
    from paddle_adaptseg.data import class_set, named_space
    from paddle_adaptseg.evaluation.folders import score_folders
    from paddle_adaptseg.evaluation.metrics import iou_table, originals_means

    space = named_space(args.classes)
    protocols = [p for p in args.protocols.split(",") if p] or [args.classes]
    sets = {p: class_set(space, p) for p in protocols}
    matrix = score_folders(Path(args.gt_dir), Path(args.pred_dir), args.dataset, space, runtime.cpu_count())
    print("\n".join([iou_table(space.names, matrix, sets), *originals_means(space.names, matrix, sets)]))
    print(f"{matrix.images} images, scored at the labels' full resolution")
    return 0
