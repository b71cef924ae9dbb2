"""The originals' flags of training and the configuration keys they set (docs/migration.md has the others)."""

from __future__ import annotations

# key: flags, help
FLAGS = {
    "run.output": (("--checkpoint-dir", "--snapshot-dir"), "folder of the run"),
    "run.restore_from": (("--restore-from",), "starting weights, or a run's folder (FOLDER@latest, FOLDER@12000)"),
    "run.seed": (("--random-seed",), "seed of everything"),
    "run.save_every": (("--save-pred-every",), "steps between checkpoints"),
    "method.seg_weights.aux": (("--lambda-seg",), "weight of the auxiliary segmentation loss"),
    "method.weights.aux": (("--lambda-adv-target1",), "weight of the auxiliary adversarial loss"),
    "method.weights.main": (("--lambda-adv-target2",), "weight of the main adversarial loss"),
    "method.gan": (("--gan",), "Vanilla or LS"),
    "optim.segmenter.lr": (("--learning-rate",), "base rate of the segmenter"),
    "optim.segmenter.momentum": (("--momentum",), "its momentum"),
    "optim.segmenter.weight_decay": (("--weight-decay",), "its weight decay"),
    "optim.critics.lr": (("--learning-rate-D",), "base rate of the critics"),
    "schedule.horizon": (("--num-steps",), "steps over which the rate decays"),
    "schedule.stop": (("--num-steps-stop",), "step at which training stops"),
    "schedule.power": (("--power",), "of the decay"),
    "schedule.iter_size": (("--iter-size",), "batches whose gradients are summed in a step"),
    "data.batch_size": (("--batch-size",), "images of each domain in a batch"),
    "data.workers": (("--num-workers",), "loader processes"),
    "data.source.root": (("--data-dir",), "folder or archive of the source"),
    "data.target.root": (("--data-dir-target",), "folder or archive of the target (data.validation.root stays)"),
}
TEXT = ("run.output", "run.restore_from", "method.gan", "data.source.root", "data.target.root")  # never read as YAML
