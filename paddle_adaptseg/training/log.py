"""What a run writes down: JSON lines, VisualDL curves and pictures, and a readable console.

A resumed run first drops what was written after the step it continues from, so curves have no overlap and no gap.
"""

from __future__ import annotations

import json
import math
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

import numpy as np
from tqdm import tqdm
from visualdl import LogWriter
from visualdl.proto.record_pb2 import Record

from paddle_adaptseg.core.files import AppendFile, check_file, writing

VDL_FILE = "vdlrecords.run.log"


def tag_of(name: str) -> str:
    """A name in VisualDL, which sorts its groups: the target's score comes first."""
    return f"0_{name}" if name.startswith("target/") else name


class RunLog:
    """Writes scalars and pictures of one run; `step` counts finished steps."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.jsonl, records = folder / "log.jsonl", folder / "vdl" / VDL_FILE
        for drop, path in ((drop_lines_after, self.jsonl), (drop_records_after, records)):
            with writing(path):
                check_file(path)
                drop(path, step)
        self._lines, self._vdl = AppendFile(self.jsonl), _Curves(records)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write named numbers. One that is not finite stays out of VisualDL, which cannot read it."""
        plain = {name: float(value) for name, value in values.items()}
        clean = {name: value if math.isfinite(value) else None for name, value in plain.items()}
        self._line({"step": step, **clean})
        for name, value in clean.items():
            if value is not None:
                self._vdl.add_scalar(tag=tag_of(name), value=value, step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write an RGB picture [H, W, 3]."""
        self._vdl.add_image(tag=tag_of(name), img=image, step=step)

    def text(self, step: int, name: str, value: str) -> None:
        """Write a sentence."""
        self._line({"step": step, name: value})
        self._vdl.add_text(tag=name, text_string=value, step=step)

    def flush(self) -> None:
        """Bring everything to disk; called before every checkpoint, so that no state is ahead of its log."""
        self._lines.sync()
        self._vdl.records.sync()

    def close(self) -> None:
        self._lines.close()
        self._vdl.records.close()

    def _line(self, values: Mapping[str, object]) -> None:
        self._lines.write((json.dumps(values) + "\n").encode())


class NoLog:
    """The log of a process whose rank is not 0: it writes nothing."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Nothing."""

    def text(self, step: int, name: str, value: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _Curves(LogWriter):
    """VisualDL without its writing thread, which passes over a full disk and waits for ever when it has died of one."""

    def __init__(self, path: Path) -> None:
        self.records = AppendFile(path)
        super().__init__(logdir=str(path.parent), write_to_disk=False)

    def _get_file_writer(self) -> _Curves:
        return self

    def add_record(self, record: Record) -> None:
        """What VisualDL's own writer does: the length, then the record."""
        data = record.SerializeToString()
        self.records.write(struct.pack("<Q", len(data)) + data)


def write_hparams(folder: Path, values: Mapping[str, object], metrics: Mapping[str, float]) -> None:
    """A trial for VisualDL's HParams page: its hyper-parameters and what came of them, anew."""
    path = folder / f"vdlrecords.{folder.name}.log"  # trials are told apart by this name
    path.unlink(missing_ok=True)
    with LogWriter(logdir=str(folder), file_name=path.name) as writer:
        # The page's table takes a dot in a name for a step into a nested value and shows an empty cell.
        writer.add_hparams({name.replace(".", "/"): value for name, value in values.items()}, list(metrics))
        for name, value in metrics.items():
            writer.add_scalar(tag=name, value=value, step=0)


def drop_lines_after(path: Path, step: int) -> None:
    """Cut a JSONL file before the first line of a later step or the first torn line."""
    if not path.exists():
        return
    kept = 0
    with path.open("rb") as handle:
        for line in handle:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept += len(line)
    _truncate(path, kept)


def drop_records_after(path: Path, step: int) -> None:
    """Cut a VisualDL file before the first record of a later step or the first torn record."""
    if not path.exists():
        return
    kept, data = 0, path.read_bytes()
    while kept + 8 <= len(data):
        end = kept + 8 + struct.unpack_from("<Q", data, kept)[0]
        record = _parse(data[kept + 8 : end]) if end <= len(data) else None
        if record is None or any(value.id > step for value in record.values):
            break
        kept = end
    _truncate(path, kept)


def _parse(data: bytes) -> Optional[Record]:
    record = Record()
    try:
        record.ParseFromString(data)
    except Exception:  # protobuf's DecodeError moves between its versions
        return None
    return record


def _truncate(path: Path, size: int) -> None:
    if size < path.stat().st_size:
        with path.open("r+b") as handle:
            handle.truncate(size)


class Console:
    """Progress with time left on a terminal; plain lines where output goes to a file or a notebook cell."""

    def __init__(self, first: int, total: int, bar: bool = True) -> None:
        self.first, self.total, self.began = first, total, time.monotonic()
        disable = not bar or not sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=first, unit="step", dynamic_ncols=True, smoothing=0.05, disable=disable)

    def tick(self, text: str = "") -> None:
        """One step done; `text` shows the latest numbers."""
        if text:
            self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()

    def pace(self, step: int) -> str:
        """Speed and time left, for lines that stand where no bar is."""
        rate = (step - self.first) / max(1e-9, time.monotonic() - self.began)
        left = int((self.total - step) / rate) if rate > 0 else 0
        return f"({rate:.2f} steps/s, {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left)"

    def line(self, text: str) -> None:
        """A line above the bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self.bar.close()
