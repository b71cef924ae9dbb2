"""What an exported folder promises: deploy.yml for programs, README.md (the model card) for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from typing import Optional

from paddle_adaptseg.config.schema import Config, Data
from paddle_adaptseg.config.yamltree import parse_tree, read_text, write_tree
from paddle_adaptseg.core.errors import CheckpointError, suggest
from paddle_adaptseg.core.files import write_atomically
from paddle_adaptseg.core.labels import LabelSpace

FILE = "deploy.yml"
FORMATS: Mapping[str, tuple[str, ...]] = {"paddle": ("fp32", "bf16", "fp16"), "onnx": ("fp32", "fp16", "int8")}


@dataclass(frozen=True)
class Contract:
    """Everything needed to use an exported program."""

    format: str
    program: str  # file beside this one
    weights: str  # of a Paddle program; an ONNX program holds its own
    precision: str
    size: Optional[list[int]]  # height, width; None: any size
    recommended: list[int]  # height, width that the network was evaluated at
    classes: list[str]
    colours: list[list[int]]
    window: Optional[list[int]] = None  # height, width: the program computes logits of such parts of an image
    stride: Optional[list[int]] = None  # height, width from window to window; None: they overlap by a third or more
    average: str = "logits"  # of the windows that a pixel lies in, or softmax: of their probabilities
    align_corners: bool = True  # how a window's logits are resized

    def space(self) -> LabelSpace:
        """The classes that the labels mean."""
        return LabelSpace(tuple(self.classes), tuple((r, g, b) for r, g, b in self.colours))


def write_contract(folder: Path, contract: Contract) -> None:
    """Write deploy.yml."""
    out = "logits float32 [1, classes, h, w] of a window" if contract.window else "class indices int32 [1, H, W]"
    text = f"# RGB uint8 [1, H, W, 3] in, {out} out.\n" + write_tree(asdict(contract))
    write_atomically(folder / FILE, lambda handle: handle.write(text.encode()))


def read_contract(folder: Path) -> Contract:
    """The contract of an exported folder."""
    tree = parse_tree(read_text(folder / FILE), str(folder / FILE))
    fields = Contract.__dataclass_fields__
    needed = {name for name, field in fields.items() if field.default is MISSING}
    if not needed <= set(tree) <= set(fields):
        raise CheckpointError(f"'{folder / FILE}' is not of this version: export the model again")
    return Contract(**tree)


def check_choice(form: str, precision: str) -> None:
    """Refuse a format or precision that does not exist."""
    if form not in FORMATS:
        raise CheckpointError(f"unknown format '{form}': {suggest(form, FORMATS)}")
    if precision not in FORMATS[form]:
        raise CheckpointError(f"{form} programs have no precision '{precision}': {suggest(precision, FORMATS[form])}")


def trained_on(data: Data) -> str:
    """The data sets with and without labels, in words."""
    sources = " and ".join(source.dataset for source in data.all_sources().values())
    with_labels = f"{sources} with labels" if sources else "no source"
    few = "" if data.target_labelled is None else ", and some of its images with labels"
    return f"{with_labels}, {data.target.dataset} without{few}"


def card(contract: Contract, config: Config, origin: Mapping[str, object], checks: list[str]) -> str:
    """The model card in Markdown."""
    data, size = config.data, contract.size
    shape = f"{size[0]}x{size[1]}" if size else "any size"
    result = "Out come class indices, int32, `[1, H, W]`; index and colour of each class are in `deploy.yml`."
    if contract.window:
        shape = f"{contract.window[0]}x{contract.window[1]}"
        result = (
            "It is one window of the image; out come its logits, float32, `[1, classes, h, w]`. `deploy.yml` says how "
            "far apart windows lie: resize each one's logits to the window, average them where windows overlap, and "
            "take the largest class. `tools/predict.py` does so for images of any size."
        )
    wanted = f"{contract.recommended[0]}x{contract.recommended[1]}"
    rows = [
        ("Method", f"{config.method.name} {_plain(config.method.params)}"),
        ("Network", f"{config.model.name} {_plain(config.model.params)}"),
        ("Trained on", trained_on(data)),
        (
            "Evaluated on",
            f"{data.validation.dataset} {data.validation.split}, images read at {wanted} (height x width)",
        ),
        ("Classes", ", ".join(contract.classes)),
        ("Format", f"{contract.format}, {contract.precision}"),
        *((key.replace("_", " ").capitalize(), str(value)) for key, value in origin.items()),
    ]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    return (
        f"# {config.method.name} on {config.model.name}\n\n| | |\n|---|---|\n{table}\n\n"
        f"## Input and output\nOne RGB image, uint8, `[1, H, W, 3]`, {shape} (height x width). "
        f"Normalising is inside. The network was evaluated at {wanted}; scale images to that first.\n"
        f"{result}\n\n"
        f"## Checked when it was exported\n{chr(10).join(f'- {line}' for line in checks)}\n\n"
        "## Limits\nScores hold for the data named above; measure "
        "first on other streets, cameras or weather. Weights carry the licences of the data and of the initial weights "
        "they come from.\n"
    )


def _plain(params: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in params.items())
