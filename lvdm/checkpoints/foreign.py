"""Reads checkpoints of other codes without running what is in them: tensors and plain data come out, nothing else.

`torch.load(weights_only=True)` reads most. Checkpoints of Lightning 1.4 also hold callbacks and hyper-parameters as pickled
objects, which it refuses as a whole; for those, a restricted unpickler of our own rebuilds tensors and puts an inert stand-in in
place of everything else, without importing the object's module or running its code. The stand-ins are then dropped.
"""

from __future__ import annotations

import collections
import io
import logging
import math
import pickle
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from lvdm.types import UserError

logger = logging.getLogger(__name__)

STORAGES = {
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
DAMAGE = (  # what a damaged or hostile file can raise in either unpickler; RecursionError is a RuntimeError
    pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, EOFError, LookupError, TypeError, ValueError, AttributeError,
    RuntimeError, OverflowError, MemoryError, SafetensorError,
)  # fmt: skip


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The checkpoint's dictionary on the CPU: tensors, numbers, texts, and lists and dictionaries of these."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint file {path}; correct the path" + (" (it is a folder)" if path.is_dir() else ""))
    is_zip = zipfile.is_zipfile(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        if not is_zip:
            raise UserError(
                f"{path} is not a PyTorch checkpoint, or one from before PyTorch 1.6 that holds more than tensors; "
                "save its state_dict again with a recent PyTorch on a machine where you trust it"
            ) from error
        content = _read_tensors(path)
    except DAMAGE as error:
        raise UserError(f"{path} is truncated or damaged, or not a PyTorch checkpoint; copy or download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, and a checkpoint is a dictionary of weights")
    return content


def _read_tensors(path: Path) -> dict[str, Any]:
    """What the restricted unpickler makes of a checkpoint in the zip format, without the stand-ins."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpickler = _Restricted(archive)
            content = _plain(unpickler.load(), parents=())
    except DAMAGE as error:
        raise UserError(f"{path} is damaged, or no checkpoint that tensors can be taken from ({error})") from error
    if unpickler.ignored:
        logger.info("%s: left out objects that are not plain data: %s", path.name, ", ".join(sorted(unpickler.ignored)))
    return content


class _Ignored:
    """Stands for an object of a class that is not imported: takes any arguments, state, items and calls, and does nothing."""

    def __new__(cls, *args: object, **named: object) -> _Ignored:
        return object.__new__(cls)

    def __init__(self, *args: object, **named: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def __call__(self, *args: object, **named: object) -> None: ...

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...

    def add(self, item: object) -> None: ...


class _Restricted(pickle.Unpickler):
    """Knows tensors and ordered dictionaries; every other name becomes a stand-in. Nothing is imported."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        entries = [name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl"]
        if len(entries) != 1:
            raise ValueError("no data.pkl in the archive")
        super().__init__(io.BytesIO(archive.read(entries[0])))
        self.archive, self.folder = archive, entries[0].removesuffix("data.pkl")
        if f"{self.folder}byteorder" in archive.namelist() and archive.read(f"{self.folder}byteorder") != b"little":
            raise ValueError("its bytes are in big-endian order")
        self.ignored: set[str] = set()
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            ("torch", "Size"): tuple,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        self.ignored.add(f"{module}.{name}")
        return type("Ignored", (_Ignored,), {})

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage as a flat tensor, read once."""
        kind, dtype, key, _device, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError("a storage of an unknown kind")
        if key not in self._storages:
            data = bytearray(self.archive.read(f"{self.folder}data/{key}"))
            if len(data) != count * dtype.itemsize:
                raise ValueError(f"storage {key} has {len(data)} bytes, not {count * dtype.itemsize}")
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _rebuild_tensor(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_more: object) -> Tensor:
    """A view of a storage; as_strided checks the bounds."""
    if math.prod(size) == 0:
        return storage.new_empty(tuple(size))
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _rebuild_parameter(data: Tensor, *_more: object) -> Tensor:
    return data


_LEFT_OUT = object()


def _plain(value: Any, parents: tuple[int, ...]) -> Any:
    """The value without stand-ins; a container that contains itself is left out where it does."""
    if isinstance(value, (Tensor, str, bytes, bool, int, float, type(None))):
        return value
    if id(value) in parents:
        return _LEFT_OUT
    inside = (*parents, id(value))
    if isinstance(value, dict):
        items = {key: _plain(item, inside) for key, item in value.items() if isinstance(key, (str, int, float))}
        return {key: item for key, item in items.items() if item is not _LEFT_OUT}
    if isinstance(value, (list, tuple)):
        return type(value)(item for item in (_plain(item, inside) for item in value) if item is not _LEFT_OUT)
    return _LEFT_OUT
