"""The command line: `paddle-adaptseg COMMAND ...`, `python -m paddle_adaptseg COMMAND ...`, and each of tools/*.py.

A command is a module of lab/commands with a function `main`. It is loaded when it is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Callable

from paddle_adaptseg.core.errors import Stopped, UserError
from paddle_adaptseg.core.files import ADVICE

COMMANDS = {  # name: (module in lab/commands, what it does)
    "adapt": ("adapt", "adapt a network to your own images in one command"),
    "init": ("init", "write a commented configuration for your own images"),
    "demo": ("demo", "train and compare on generated street scenes, in minutes on a CPU"),
    "train": ("train", "train a configuration, or resume a run"),
    "eval": ("eval", "evaluate weights or every checkpoint of a run: IoU, mIoU, a report"),
    "predict": ("predict", "label images, folders, videos or a camera"),
    "export": ("export", "export a network for Paddle Inference or ONNX"),
    "convert": ("convert", "convert or check weights of other projects"),
    "check-dataset": ("check_dataset", "read every file of a data set and list what is wrong"),
    "prepare": ("prepare", "store images at training size for faster loading"),
    "compare": ("compare", "train several configurations over several seeds"),
    "sweep": ("sweep", "train once for each combination of values of any keys"),
    "suggest-labels": ("suggest_labels", "suggest which target images to label next"),
    "side-by-side": ("side_by_side", "compare size and speed of a distilled network and its teacher"),
    "compute-iou": ("compute_iou", "IoU of saved predictions against label files"),
    "doctor": ("doctor", "check in three minutes whether this machine trains correctly, and how fast"),
    "make-toy": ("make_toy", "generate the toy data sets that the demo trains on"),
}


def usage() -> str:
    """The page of `--help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: paddle-adaptseg COMMAND ...", "", "Unsupervised domain adaptation for semantic segmentation.", "",
         "commands:", *lines, "", "paddle-adaptseg COMMAND --help   the options of a command",
         "paddle-adaptseg --version        the version"]
    )  # fmt: skip


def main() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help", "help"):
        with contextlib.suppress(BrokenPipeError):  # `--help | head`
            print(usage(), flush=True)
    elif name in ("-V", "--version"):
        print(f"paddle-adaptseg {importlib.import_module('paddle_adaptseg').__version__}")
    elif name in COMMANDS:
        sys.argv = [f"paddle-adaptseg {name}", *sys.argv[2:]]
        run(name)
    else:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(COMMANDS)}"
        print(f"error: paddle-adaptseg has no command '{name}': {hint}", file=sys.stderr)
        sys.exit(2)


def run(name: str) -> None:
    """Run a command and exit with its code."""
    exit_with(importlib.import_module(f"paddle_adaptseg.lab.commands.{COMMANDS[name][0]}").main)


def exit_with(command: Callable[[], object]) -> None:
    """Call a command and exit with its code: 2 and one line for errors that the user can mend."""
    try:
        sys.exit(command())  # type: ignore[arg-type]
    except UserError as error:
        refused = error
    except OSError as error:
        if error.filename is None or error.errno is None or error.errno not in ADVICE:
            raise
        refused = UserError(f"cannot use '{error.filename}': {error.strerror}; {ADVICE[error.errno]}")
    except Stopped as stopped:
        print(stopped)
        sys.exit(stopped.code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    print(f"error: {refused}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
