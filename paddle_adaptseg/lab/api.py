"""The page of the Python interface, docs/api.md, from the signatures and docstrings of the public names."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

GROUPS = {
    "Configure": ("load_config", "override", "register"),
    "Train": ("train", "fit"),
    "Show": ("show_data", "show_run", "show_predictions", "show_report"),
    "Evaluate": ("evaluate", "evaluate_request", "evaluation.Request", "evaluation.InferenceOptions"),
    "Predict and export": ("predict", "deploy.runners.Prediction", "deploy.export.export_model"),
    "On AI Studio": ("find_places", "check_room"),
    "Extend": ("methods.base.Method", "methods.base.Term", "models.segmenter.Segmenter"),
}
START = """# Python interface

Written by `make pages` from docstrings. Names without a module are those of the package:
`from paddle_adaptseg import load_config`. [The README](../README.md) shows a few lines that train and predict,
[the notebooks](../notebooks/README.md) show more, and
[extending](extending.md) shows how to add methods, networks and data sets of your own.
"""


def api_page() -> str:
    """The page, one section for each group of names."""
    parts = [START]
    for title, names in GROUPS.items():
        parts += [f"## {title}\n", *(entry(name) for name in names)]
    return "\n".join(parts)


def entry(name: str) -> str:
    """Heading, signature, docstring and public methods of a name."""
    module, _, last = f"paddle_adaptseg.{name}".rpartition(".")
    found = getattr(importlib.import_module(module), last)
    where = "" if module == "paddle_adaptseg" else f"from {module} import {last}\n\n"
    lines = [
        f"### {last}\n",
        f"```python\n{where}{last}{_arguments(found)}\n```\n",
        (inspect.getdoc(found) or "") + "\n",
    ]
    if inspect.isclass(found):
        methods = [(key, value) for key, value in vars(found).items() if _is_told(key, value)]
        lines += [f"- `{key}`: {(inspect.getdoc(value) or key).splitlines()[0]}" for key, value in methods]
        lines += [""] * bool(methods)
    return "\n".join(lines)


def _is_told(name: str, value: Any) -> bool:
    return inspect.isfunction(value) and not name.startswith("_") and bool(value.__doc__) and name != "forward"


def _arguments(found: Any) -> str:
    """A signature, one argument on a line where it is long; classes only show what their own constructor takes."""
    own = not inspect.isclass(found) or "__init__" in vars(found) or "__new__" in vars(found)
    if not own:
        return ""
    signature = inspect.signature(found)
    parts = [_argument(one) for one in signature.parameters.values()]
    result = "" if inspect.isclass(found) else f" -> {_type(signature.return_annotation)}"
    line = f"({', '.join(parts)}){result}"
    return line if len(line) < 100 else "(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"


def _argument(one: inspect.Parameter) -> str:
    """Name, type and default; of a default that is an object only the kind."""
    stars = "*" * (one.kind is one.VAR_POSITIONAL) + "**" * (one.kind is one.VAR_KEYWORD)
    text = f"{stars}{one.name}: {_type(one.annotation)}"
    if one.default is one.empty:
        return text
    simple = one.default is None or isinstance(one.default, (bool, int, float, str, tuple))
    return f"{text} = {one.default!r}" if simple else f"{text} = ..."


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__forward_arg__", str(annotation))
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(\w+)", r"\1", text)


def missing() -> set[str]:
    """Public names that the page does not have."""
    return (
        set(importlib.import_module("paddle_adaptseg").__all__)
        - {"__version__"}
        - {name for names in GROUPS.values() for name in names}
    )
