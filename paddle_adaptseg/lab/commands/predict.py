"""Label images, folders, videos or a camera with weights or an exported program. Exit code 1 if any input failed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from paddle_adaptseg.lab.commands.arguments import add_override, parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="weights file, a run's folder, or an exported folder")
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="image, folder, quoted pattern, video, camera number"
    )
    parser.add_argument("--output", required=True, help="folder for the results, which are named like the inputs")
    parser.add_argument("--write", default="label,color,overlay", help="label, color, overlay, side; videos: only side")
    parser.add_argument("--window", metavar="WxH", help="slide a window of this size over each image")
    parser.add_argument("--stride", metavar="WxH", help="distance between windows; default: overlap of a third or more")
    parser.add_argument("--average", default="logits", help="what is averaged in the overlap: logits or softmax")
    parser.add_argument("--windows-at-once", type=int, default=1, help="windows in one batch")
    parser.add_argument("--full-size", action="store_true", help="do not resize images; large ones also need --window")
    parser.add_argument("--max-frames", type=int, help="stop a video or camera after this many frames")
    parser.add_argument("--config", help="YAML file; default: the configuration saved in the weights")
    add_override(parser)
    args = parse(parser)
    from paddle_adaptseg.core import distributed, runtime

    runtime.import_paddle()
    runtime.keep_freed_memory()
    from paddle_adaptseg.config.loading import load_config
    from paddle_adaptseg.deploy.predict import predict_files
    from paddle_adaptseg.deploy.runners import open_runner
    from paddle_adaptseg.evaluation.options import InferenceOptions, window_size

    distributed.start()
    with distributed.ending_together():
        config = load_config(args.config, args.override) if args.config else None
        window, stride = window_size(args.window, "--window"), window_size(args.stride, "--stride")
        options = InferenceOptions(
            window=window, stride=stride, average=args.average, windows_at_once=args.windows_at_once
        )
        runner = open_runner(args.model, config, args.override, options, args.full_size)
        print(f"{args.model}: {runner.title}, {len(runner.space)} classes")
        tally = predict_files(runner, args.inputs, Path(args.output), args.write.split(","), args.max_frames)
    print(f"{tally.line()}; written to {args.output}")
    for problem in tally.problems:
        print(f"failed: {problem}", file=sys.stderr)
    return 1 if tally.problems else 0
