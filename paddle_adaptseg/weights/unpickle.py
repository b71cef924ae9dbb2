"""Unpickling that cannot run code: a file gets plain containers, text, numbers and arrays, and nothing else.

A small interpreter of the instructions that weights need. Names in a pickle are looked up in a table of ours and never
imported, every instruction is paid for from a budget, and only text and numbers are hashed.
"""

from __future__ import annotations

import codecs
import pickletools
import sys
from collections.abc import Mapping
from typing import Any, Callable, Optional, cast

import numpy as np

from paddle_adaptseg.core.errors import CheckpointError
from paddle_adaptseg.weights.limits import Budget, Metered, brief

MAX_NAME = 1000  # characters
_MANY, _LINE = 2**16, 2**24
_INSTRUCTIONS = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}


class Callee:
    """A function of ours that a pickle may call under a name of its own."""

    def __init__(self, call: Callable) -> None:
        self.call = call


class Record:
    """An object that a pickle makes first and describes afterwards."""

    def build(self, state: Any, budget: Budget) -> None:
        raise NotImplementedError


class Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, source: Metered, names: Mapping, budget: Budget, storage: Optional[Callable] = None) -> None:
        self.source, self.names, self.budget, self.storage = source, names, budget, storage
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Follow the instructions to the end and return what they made."""
        while True:
            code = self.source.read(1)
            if code not in _INSTRUCTIONS:
                raise CheckpointError(f"it holds {code!r} where an instruction of a pickle should be")
            opcode = _INSTRUCTIONS[code]
            self.budget.step()
            if opcode.name == "STOP":
                return self.stack.pop()
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise CheckpointError(f"it uses the instruction {opcode.name}, which weights never need")
            reader = _READERS.get(opcode.name) or (opcode.arg.reader if opcode.arg else None)
            action(self, reader(cast(Any, self.source)) if reader else None)

    def pop(self, count: int) -> list:
        """The last values."""
        if count > len(self.stack):
            raise CheckpointError("its instructions take more values than there are")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def since_mark(self) -> list:
        """The values since the last mark."""
        return self.pop(max(0, len(self.stack) - self.marks.pop()))

    def top(self, kind: type) -> Any:
        """The last value, which must be a container of this kind."""
        if not isinstance(self.stack[-1], kind):
            raise CheckpointError(f"it fills a {type(self.stack[-1]).__name__} like a {kind.__name__}")
        return self.stack[-1]


def _number(machine: Machine, value: Any) -> None:
    if isinstance(value, int) and value.bit_length() > 128:
        raise CheckpointError(f"it holds a number of {value.bit_length()} bits")
    machine.stack.append(value)


def _wide(data: bytes) -> str:
    """UTF-8 as text; a long text holds an array's bytes, so a character that needs more than one would be a trick."""
    if len(data) > _MANY and np.frombuffer(data, np.uint8).max() > 0xC3:
        raise CheckpointError("it holds a long text that is no array")
    return data.decode("utf-8", "surrogatepass")


def _text(size: Callable) -> Callable:
    return lambda source: _wide(source.read(size(source)))


def _quoted_line(source: Metered) -> str:
    return codecs.escape_decode(source.readline(_LINE).strip()[1:-1])[0].decode("latin1")


def _escaped_line(source: Metered) -> str:
    return source.readline(_LINE)[:-1].decode("raw-unicode-escape")


def _look_up(machine: Machine, module: Any, name: Any) -> None:
    if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in machine.names:
        raise CheckpointError(f"it wants to use '{brief(module)}.{brief(name)}', which weights never need")
    machine.stack.append(machine.names[module, name])


def _call(machine: Machine, _: Any) -> None:
    callee, arguments = machine.pop(2)
    if not isinstance(callee, Callee) or not isinstance(arguments, tuple):
        raise CheckpointError("it calls something that weights never call")
    for argument in arguments:  # whatever is called may copy them
        if isinstance(argument, (list, tuple)):
            machine.budget.step(len(argument))
        elif isinstance(argument, (str, bytes, bytearray)):
            machine.budget.take(len(argument))
    machine.stack.append(callee.call(*arguments))


def _build(machine: Machine, _: Any) -> None:
    state, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, Record):
        target.build(state, machine.budget)
    elif not isinstance(target, dict):  # attributes of an OrderedDict say nothing about weights
        raise CheckpointError(f"it sets attributes of a {type(target).__name__}")


def insert(target: dict, items: list) -> dict:
    """Set keys and values that follow one another; a key is short text or a number of 64 bits."""
    for key, value in zip(items[::2], items[1::2]):
        short = isinstance(key, str) and len(key) <= MAX_NAME
        if not (short or key is None or (isinstance(key, int) and key.bit_length() < 64)):
            raise CheckpointError(f"it holds a {type(key).__name__} as a key, or a very long one: '{brief(key)}'")
        target[key] = value
    return target


def _refer(machine: Machine, reference: Any) -> None:
    if machine.storage is None:
        raise CheckpointError("it refers to data outside itself")
    machine.stack.append(machine.storage(reference))


def _push(machine: Machine, value: Any) -> None:
    if isinstance(value, str) and len(value) > _MANY:
        machine.budget.take(sys.getsizeof(value))  # some characters take four bytes
    machine.stack.append(value)


def _skip(machine: Machine, _: Any) -> None:
    pass


def _remember(machine: Machine, place: Optional[int]) -> None:
    machine.memo[len(machine.memo) if place is None else place] = machine.stack[-1]


def _constant(make: Callable) -> Callable:
    return lambda machine, _: machine.stack.append(make())


def _tuple(count: int) -> Callable:
    return lambda machine, _: machine.stack.append(tuple(machine.pop(count)))


_Action = Callable[[Machine, Any], Any]
_ACTIONS: dict[str, _Action] = {
    **dict.fromkeys(("PROTO", "FRAME"), _skip),
    **dict.fromkeys(("INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"), _number),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE",
                     "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), _push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, place: m.stack.append(m.memo[place])),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _call),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_LIST": _constant(list),
    "EMPTY_TUPLE": _tuple(0),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.pop(1),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.since_mark())),
    "LIST": lambda m, _: m.stack.append(m.since_mark()),
    "DICT": lambda m, _: m.stack.append(insert({}, m.since_mark())),
    "APPEND": lambda m, _: (lambda items: m.top(list).extend(items))(m.pop(1)),
    "APPENDS": lambda m, _: (lambda items: m.top(list).extend(items))(m.since_mark()),
    "SETITEM": lambda m, _: (lambda items: insert(m.top(dict), items))(m.pop(2)),
    "SETITEMS": lambda m, _: (lambda items: insert(m.top(dict), items))(m.since_mark()),
    "GLOBAL": lambda m, name: _look_up(m, *name.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: _look_up(m, *m.pop(2)),
    "BUILD": _build,
    "PERSID": _refer,
    "BINPERSID": lambda m, _: _refer(m, m.stack.pop()),
}  # fmt: skip
_READERS = {  # instead of pickletools' own
    "STRING": _quoted_line,
    "UNICODE": _escaped_line,
    "BINUNICODE": _text(pickletools.read_uint4),
    "BINUNICODE8": _text(pickletools.read_uint8),
}


def load_one(source: Metered, names: Mapping, budget: Budget, storage: Optional[Callable] = None) -> Any:
    """The next pickle of a file. Raises CheckpointError, or whatever a broken pickle raises."""
    return Machine(source, names, budget, storage).run()
