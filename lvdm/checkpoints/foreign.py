"""Reads checkpoints of other codes without running what is in them: tensors and plain data come out, nothing else.

PyTorch's own reader is not used: it sets no limits, and it refuses checkpoints of Lightning 1.4 as a whole, because they hold
callbacks and hyper-parameters. Our reader of pickles (pickles.py) leaves such objects out. The tensors are views of the file,
which is mapped into memory. Nothing is inflated.
"""

from __future__ import annotations

import io
import logging
import mmap
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lvdm.checkpoints.pickles import FOREIGN, PickleReader, StorageId
from lvdm.files import LimitedFile
from lvdm.types import UserError, first_line

logger = logging.getLogger(__name__)

MAX_PICKLE = 64 << 20  # bytes; that of a 5 GB checkpoint with 9,000 tensors has about 2 MiB
ZIP = b"PK\x03\x04"
LEGACY = (0x1950A86A20F9469CFC6C, 1001)  # the first two pickles of a file from before PyTorch 1.6
DAMAGE = (  # what a damaged or hostile file can raise
    zipfile.BadZipFile, EOFError, LookupError, TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError,
    OverflowError, MemoryError, OSError, struct.error, SafetensorError,
)  # fmt: skip


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the dictionary of a checkpoint on the CPU: tensors, numbers, texts, and lists and dictionaries of these."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint file {path}; correct the path" + (" (it is a folder)" if path.is_dir() else ""))
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _read(path)
    except UserError:
        raise
    except DAMAGE as error:
        why = (first_line(error) or type(error).__name__)[:200]
        raise UserError(
            f"{path} is truncated or damaged, or not a PyTorch checkpoint ({why}); copy or download it again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, and a checkpoint is a dictionary of weights")
    return content


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        if not file.read(1):
            raise ValueError("it is empty")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # private: writing to a tensor leaves the file as it is
    archive = _ZipCheckpoint(path, mapped) if mapped[:4] == ZIP else _LegacyCheckpoint(mapped)
    content = archive.read()
    if archive.ignored:
        logger.info("%s: left out objects that are not plain data: %s", path.name, ", ".join(sorted(archive.ignored)[:20]))
    return content


class _ZipCheckpoint:
    """The zip format of PyTorch 1.6 and later: a pickle, and each storage as an entry that is stored and not compressed."""

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self.mapped, self.left = mapped, len(mapped)
        with LimitedFile(path) as file, zipfile.ZipFile(file) as archive:
            self.entries = {entry.filename: entry for entry in archive.infolist()}
            if len(self.entries) < len(archive.infolist()):
                raise ValueError("two entries of the archive have one name")
        pickles = [name for name in self.entries if name.split("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} entries data.pkl in the archive")
        self.folder = pickles[0].removesuffix("data.pkl")
        if f"{self.folder}byteorder" in self.entries and self._bytes(f"{self.folder}byteorder") != b"little":
            raise ValueError("its bytes are in big-endian order")
        self.storages: dict[str, torch.Tensor] = {}
        self.reader = PickleReader(self._storage, elements=len(mapped))
        self.ignored = self.reader.ignored

    def read(self) -> Any:
        return self.reader.read(io.BytesIO(self._bytes(f"{self.folder}data.pkl")))

    def _bytes(self, name: str) -> bytes:
        start, size = self._place(name)
        if size > MAX_PICKLE:
            raise ValueError(f"{name} has {size} bytes, more than {MAX_PICKLE}")
        return self.mapped[start : start + size]

    def _place(self, name: str) -> tuple[int, int]:
        """Return start and size of an entry within the file; the entries together may not be larger than the file."""
        if name not in self.entries:
            raise ValueError(f"there is no entry {name}")
        entry = self.entries[name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
            raise ValueError(f"{name} is compressed or encrypted, which PyTorch never does; save it again with PyTorch")
        signature, name_size, extra_size = struct.unpack_from("<4s22xHH", self.mapped, entry.header_offset)
        start, size = entry.header_offset + 30 + name_size + extra_size, entry.file_size
        self.left -= size
        if signature != ZIP or start + size > len(self.mapped) or self.left < 0:
            raise ValueError(f"{name} does not lie within the file")
        with memoryview(self.mapped) as view, view[start : start + size] as part:
            if zlib.crc32(part) != entry.CRC:
                raise ValueError(f"the bytes of {name} are not those that were written")
        return start, size

    def _storage(self, wanted: StorageId) -> torch.Tensor:
        if wanted.key not in self.storages:
            start, size = self._place(f"{self.folder}data/{wanted.key}")
            if size != wanted.count * wanted.dtype.itemsize:
                raise ValueError(f"storage {wanted.key} has {size} bytes, not {wanted.count * wanted.dtype.itemsize}")
            self.storages[wanted.key] = _view(self.mapped, wanted.dtype, wanted.count, start)
        return _of_type(self.storages[wanted.key], wanted)


class _LegacyCheckpoint:
    """The format before PyTorch 1.6: pickles of a magic number, a version, facts on the machine, the content and the keys of its
    storages, then the storages. The content is read twice, because it gives the types of the storages after it."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self.mapped = mapped
        self.wanted: dict[str, StorageId] = {}
        self.storages: dict[str, torch.Tensor] = {}
        self.ignored: set[str] = set()

    def read(self) -> Any:
        file = io.BytesIO(self.mapped[:MAX_PICKLE])
        first = PickleReader(self._note, elements=0)
        if tuple(first.read(file) for _ in LEGACY) != LEGACY:
            raise ValueError("it begins neither as a zip nor as a file of PyTorch before 1.6")
        machine, start = first.read(file), file.tell()
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise ValueError("its bytes are in big-endian order")
        first.read(file)
        self._find_storages(first.read(file), file.tell())
        file.seek(start)
        second = PickleReader(self._storage, elements=len(self.mapped))
        self.ignored = second.ignored
        return second.read(file)

    def _note(self, wanted: StorageId) -> Any:
        if self.wanted.setdefault(wanted.key, wanted) != wanted:
            raise ValueError(f"storage {wanted.key} is of two kinds")
        return FOREIGN

    def _find_storages(self, keys: Any, at: int) -> None:
        for key in keys:
            if (wanted := self.wanted.get(key)) is None:
                raise ValueError(f"storage {str(key)[:40]} is of a kind that cannot be read")
            (count,) = struct.unpack_from("<q", self.mapped, at)
            at += 8
            if count != wanted.count or count * wanted.dtype.itemsize > len(self.mapped) - at:
                raise ValueError(f"storage {key} has {count} elements, and {wanted.count} are needed, or the file ends before")
            self.storages[key] = _view(self.mapped, wanted.dtype, count, at)
            at += count * wanted.dtype.itemsize

    def _storage(self, wanted: StorageId) -> torch.Tensor:
        return self.storages[wanted.key]


def _view(mapped: mmap.mmap, dtype: torch.dtype, count: int, start: int) -> torch.Tensor:
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=start) if count else torch.empty(0, dtype=dtype)


def _of_type(storage: torch.Tensor, wanted: StorageId) -> torch.Tensor:
    if (storage.dtype, len(storage)) != (wanted.dtype, wanted.count):
        raise ValueError(f"storage {wanted.key} is of two kinds")
    return storage
