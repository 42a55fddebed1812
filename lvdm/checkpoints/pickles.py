"""Reads the pickle of a checkpoint from a stranger, opcode by opcode, and calls nothing of the file's choice.

It builds numbers, texts, lists, tuples, dictionaries and tensors. Any other object becomes FOREIGN and is left out of whatever it
is put into. Each opcode takes bounded work, so time and memory grow with the number of opcodes, which has a limit. Only texts and
numbers are hashed, and nothing is walked: references to one object cannot multiply.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

MAX_OPCODES = 2_000_000  # a published 5 GB checkpoint with optimizer state has 9,000 tensors of about 40 opcodes: 400,000
MAX_INTEGER = 2048  # bits; counters and seeds have 64
MAX_NAME = 256  # letters of a module and a class; no more foreign names than this are kept for the log
MAX_DIMENSIONS = 16  # of a tensor; published ones have 5
SHARING = 16  # times that tensors may show an element of their storages, on average; tied and doubled weights show it twice
FREE = 1 << 20  # elements that may be shown any number of times, for small files

STORAGES = {
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
DICTIONARY, SIZE, TENSOR, PARAMETER = "dictionary", "size", "tensor", "parameter"
CALLS = {
    "collections OrderedDict": DICTIONARY,
    "torch Size": SIZE,
    "torch._utils _rebuild_tensor": TENSOR,
    "torch._utils _rebuild_tensor_v2": TENSOR,
    "torch._utils _rebuild_parameter": PARAMETER,
    "torch._utils _rebuild_parameter_with_state": PARAMETER,
}
TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
INTEGERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
AS_THEY_ARE = {"FLOAT", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
AT_MARK = {"TUPLE", "LIST", "DICT", "FROZENSET", "ADDITEMS", "APPENDS", "SETITEMS", "POP_MARK"}
CALLING = {"GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "BINPERSID"}

FOREIGN = type("Foreign", (), {"__repr__": lambda self: "FOREIGN"})()  # stands for any object that is not plain data


@dataclass(frozen=True)
class Known:
    """A name that the file may call (`call`), or the type of a storage."""

    call: str = ""
    dtype: torch.dtype | None = None


class Mixed(tuple):
    """A tuple with something foreign in it: arguments of a call, and no plain data."""


@dataclass(frozen=True)
class StorageId:
    """The identity of a storage in the file."""

    key: str
    dtype: torch.dtype
    count: int


class PickleReader:
    """Reads pickles; `storage` gives the flat tensor of a storage, or FOREIGN.

    Args:
        elements: how many elements all storages together can have; the tensors may show SHARING times as many.
    """

    def __init__(self, storage: Callable[[StorageId], Any], *, elements: int) -> None:
        self._storage, self._left = storage, SHARING * elements + FREE
        self.ignored: set[str] = set()
        self._opcodes = 0

    def read(self, file: BinaryIO) -> Any:
        """Read one pickle, and leave the file after it. ValueError, LookupError or TypeError if it is damaged or hostile."""
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(file):
            self._count(1)
            self._take(opcode.name, argument)
        (value,) = self._stack
        return value

    def _count(self, opcodes: int) -> None:
        self._opcodes += opcodes
        if self._opcodes > MAX_OPCODES:
            raise ValueError(f"its pickle has more than {MAX_OPCODES:,} opcodes")

    def _take(self, name: str, argument: Any) -> None:
        """Do what an opcode says."""
        if name in TEXTS:
            self._stack.append(argument if argument.isascii() else argument.encode(errors="backslashreplace").decode())
        elif name in INTEGERS:
            if argument.bit_length() > MAX_INTEGER:
                raise ValueError(f"an integer of {argument.bit_length()} bits")
            self._stack.append(argument)
        elif name in AS_THEY_ARE:
            self._stack.append(argument)
        elif name in CONSTANTS:
            self._stack.append(CONSTANTS[name])
        elif name in CALLING:
            result = self._result(name, argument)  # which may change the stack
            self._stack.append(result)
        elif name in AT_MARK:
            self._take_at_mark(name)
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._take_at_top(name, argument)

    def _take_at_top(self, name: str, argument: Any) -> None:
        """Do what an opcode says that works on the top of the stack."""
        stack = self._stack
        match name:
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "MARK":
                self._marked.append(stack)
                self._stack = []
            case "POP":
                self._popped(1) if stack else self._since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(FOREIGN)
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(_tuple(self._popped(TUPLES[name])))
            case "APPEND":
                _extend(stack[-2], self._popped(1))
            case "SETITEM":
                _set(stack[-3], self._popped(2))
            case "BUILD":  # leaves out the state of an object, and keeps the object
                self._popped(1)
            case _:
                raise ValueError(f"the opcode {name}, which no checkpoint needs")

    def _take_at_mark(self, name: str) -> None:
        """Do what an opcode says that takes everything above the mark; ADDITEMS adds to a set, which is FOREIGN."""
        values = self._since_mark()
        match name:
            case "TUPLE":
                self._stack.append(_tuple(values))
            case "LIST":
                self._stack.append([value for value in values if not _is_foreign(value)])
            case "DICT":
                self._stack.append(_set({}, values))
            case "FROZENSET":
                self._stack.append(FOREIGN)
            case "APPENDS":
                _extend(self._stack[-1], values)
            case "SETITEMS":
                _set(self._stack[-1], values)

    def _result(self, name: str, argument: Any) -> Any:
        """Return what a name stands for or a call returns, as far as it is plain data."""
        match name:
            case "GLOBAL":
                return self._find(argument)
            case "STACK_GLOBAL":
                module, last = self._popped(2)
                is_name = isinstance(module, str) and isinstance(last, str) and len(module) + len(last) < MAX_NAME
                return self._find(f"{module} {last}") if is_name else FOREIGN
            case "NEWOBJ_EX":
                kind, arguments, _named = self._popped(3)
                return self._called(kind, arguments)
            case "OBJ":
                kind, *rest = self._since_mark()
                return self._called(kind, tuple(rest))
            case "INST":
                arguments = tuple(self._since_mark())
                return self._called(self._find(argument), arguments)
            case "BINPERSID":
                return self._stored(*self._popped(1))
        return self._called(*self._popped(2))  # REDUCE and NEWOBJ

    def _popped(self, count: int) -> list[Any]:
        """Remove and return the last `count` values of the stack."""
        at = len(self._stack) - count
        if at < 0:
            raise IndexError("the stack is empty")
        values = self._stack[at:]
        del self._stack[at:]
        return values

    def _since_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._marked.pop()
        return values

    def _find(self, name: str) -> Any:
        module, _, last = name.partition(" ")
        if name in CALLS:
            return Known(call=CALLS[name])
        if module == "torch" and last in STORAGES:
            return Known(dtype=STORAGES[last])
        if len(self.ignored) < MAX_NAME:
            self.ignored.add(f"{module}.{last}"[:MAX_NAME])
        return FOREIGN

    def _stored(self, found: Any) -> Any:
        """Return the storage of a persistent id."""
        kind, known, key, _device, count, *view = found
        if kind != "storage" or type(key) is not str or type(count) is not int or count < 0:
            raise ValueError("a storage of an unknown kind")
        is_plain = isinstance(known, Known) and known.dtype is not None and view in ([], [None])
        return self._storage(StorageId(key, known.dtype, count)) if is_plain else FOREIGN

    def _called(self, kind: Any, arguments: Any) -> Any:
        if not isinstance(kind, Known) or not isinstance(arguments, tuple):
            return FOREIGN
        if kind.call == DICTIONARY:
            pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
            self._count(len(pairs))  # a list may be given to any number of calls
            return _set({}, [each for key, value in pairs for each in (key, value)])
        if kind.call == SIZE:
            (size,) = arguments
            return size
        if kind.call == PARAMETER:
            return arguments[0]
        return self._tensor(*arguments) if kind.call == TENSOR else FOREIGN

    def _tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, _grad: Any = None, _hooks: Any = None, metadata: Any = None
    ) -> Any:
        """Return a view of a storage, after checking that it lies within."""
        if storage is FOREIGN:
            return FOREIGN
        if metadata:
            raise ValueError("a tensor that is stored conjugated or negated; save it again with resolve_conj and resolve_neg")
        numbers = [offset, *size, *stride]
        if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
            raise ValueError(f"a tensor with {len(size)} sides and {len(stride)} strides")
        if any(type(number) is not int or not 0 <= number < 1 << 60 for number in numbers):
            raise ValueError("a tensor whose offset, sides or strides are no sizes")
        count = math.prod(size)
        self._left -= count
        if self._left < 0:
            raise ValueError(f"its tensors have more than {SHARING} times the elements that are stored")
        if count == 0:
            return storage.new_empty(size)
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        if last >= len(storage):
            raise ValueError(f"a tensor that needs {last + 1} elements of a storage of {len(storage)}")
        return storage.as_strided(size, stride, offset)


def _is_foreign(value: Any) -> bool:
    return value is FOREIGN or isinstance(value, (Known, Mixed))


def _tuple(values: Sequence[Any]) -> tuple[Any, ...]:
    return (Mixed if any(map(_is_foreign, values)) else tuple)(values)


def _extend(target: Any, values: Sequence[Any]) -> None:
    if isinstance(target, list):
        target += [value for value in values if not _is_foreign(value)]


def _set(target: Any, values: Sequence[Any]) -> Any:
    """Put key, value, key, value, ... into a dictionary. Only texts and numbers can be keys, since hashing others may not end."""
    if isinstance(target, dict):
        plain = [(key, value) for key, value in zip(values[::2], values[1::2], strict=True) if isinstance(key, (str, int, float))]
        target.update((key, value) for key, value in plain if not _is_foreign(value))
    return target
