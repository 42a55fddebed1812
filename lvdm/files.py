"""Atomic writes of files, locks, and hashes that detect damage.

The hash is XXH3-128, which runs at the speed of memory. It detects damage, not forgery.
A description is JSON with its own hash and the hash of each tensor in the same file, so its hash covers the whole file.
With `LVDM_VERIFY=0` in the environment, files are read without verification.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from xxhash import xxh3_128

from lvdm.types import UserError

logger = logging.getLogger(__name__)

HASH, TENSOR_HASHES = "hash", "tensor_hashes"  # keys of a description
BLOCK = 1 << 20  # bytes
THREADS = min(4, os.cpu_count() or 1)  # for hashing; more do not read memory faster
MAX_DIRECTORY = 8 << 20  # bytes of a zip's list of entries: about 100,000 entries
DISK_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}


class DamagedFile(UserError):
    """An error for a file whose content is not what was written."""


def is_verifying() -> bool:
    """Return whether files are verified when they are read."""
    return os.environ.get("LVDM_VERIFY") != "0"


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor's values."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def add_tensors(digest: Any, tensors: Mapping[str, Tensor]) -> None:
    """Add names, types, shapes and values to a hash, in the order of the names."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(bytes_of(tensor))


def hash_tensor(name: str, tensor: Tensor) -> str:
    """Return the hash of a tensor's name, type, shape and values."""
    add_tensors(digest := xxh3_128(), {name: tensor})
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Return the hash of a file's bytes."""
    digest, block = xxh3_128(), bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(memoryview(block)[:size])
    return digest.hexdigest()


def with_hashes(description: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Return the description with the tensors' hashes and, last, its own hash."""
    plain = json.loads(json.dumps(description))
    if tensors is not None:
        plain[TENSOR_HASHES] = {name: hash_tensor(name, tensor) for name, tensor in tensors.items()}
    return {**plain, HASH: _hash_json(plain)}


def check_description(found: Any, path: Path, *, noted: Path | None = None) -> None:
    """Check a description against its hash; one of an earlier version has no hash, which is logged.

    `noted` is what the log names instead of the file, such as its folder.
    """
    if not is_verifying():
        return
    if not isinstance(found, dict) or not {HASH, TENSOR_HASHES} & found.keys():
        note_without_hashes(noted or path)
    elif found.get(HASH) != _hash_json({key: value for key, value in found.items() if key != HASH}):
        raise DamagedFile(f"{path} is damaged: its description is not what was written; copy or make the file again")


def check_tensors(tensors: Mapping[str, Tensor], description: Any, path: Path, *, all_of_them: bool = False) -> None:
    """Check tensors against the hashes in a verified description; with `all_of_them`, also that none is missing."""
    hashes = description.get(TENSOR_HASHES) if isinstance(description, dict) else None
    if not is_verifying() or hashes is None:
        return
    missing = sorted(tensors.keys() ^ hashes.keys() if all_of_them else tensors.keys() - hashes.keys())
    with ThreadPoolExecutor(min(THREADS, len(tensors) or 1)) as pool:  # hashing lets other threads run
        found = {} if missing else dict(zip(tensors, pool.map(hash_tensor, tensors, tensors.values()), strict=True))
    for name in missing or (name for name in found if found[name] != hashes[name]):
        raise DamagedFile(f"{path} is damaged: its tensor {name} is not what was written; copy or make the file again")


@lru_cache(maxsize=1024)
def note_without_hashes(path: Path) -> None:
    """Log once for each file that it cannot be verified."""
    logger.warning("%s has no hashes, because an earlier version of lvdm wrote it; damage in it cannot be detected", path)


class LimitedFile(io.FileIO):
    """A file for zipfile, which reads its list of entries at once: a read of more than MAX_DIRECTORY bytes is refused."""

    def read(self, size: int | None = -1) -> bytes:
        if (os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size) > MAX_DIRECTORY:
            raise ValueError(f"its list of entries has more than {MAX_DIRECTORY} bytes")
        return super().read(size)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name, flush to the disk, and rename: a reader sees the old file or the complete new one."""
    if path.exists() and not path.is_file():
        raise IsADirectoryError(errno.EISDIR, "it is a folder or a special file", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # follows the umask; safetensors would make the file private
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is removed afterwards. Other processes wait for it."""
    while True:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not is_at(path, file.fileno()):  # its holder has removed it
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def is_at(path: Path, file: int) -> bool:
    """Return whether the open file is the one at the path; it may have been removed and made again."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def write_new(path: Path, write: Callable[[Path], object]) -> bool:
    """Write a file as `write_whole` does, unless it exists; return whether it was written. Of two processes one writes it."""
    mine = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        write_whole(mine, write)
        try:
            os.link(mine, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            os.replace(mine, path)
        return True
    finally:
        mine.unlink(missing_ok=True)


def why_not_written(error: BaseException) -> str:
    """Return why a file could not be written; the errors of some libraries have the reason in their text only."""
    text = str(error)
    in_text = re.search(r"os error (\d+)", text)
    number = getattr(error, "errno", None) or (int(in_text[1]) if in_text else None)
    number = number or next((full for full in DISK_FULL if os.strerror(full) in text), None)
    if number is None:
        return text
    return ": ".join([*([DISK_FULL[number]] if number in DISK_FULL else []), os.strerror(number)])


def _hash_json(content: Any) -> str:
    return xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest()
