"""A checkpoint as a file: the zip archive of `torch.save`, with a hash of all bytes before it in the archive's comment.

PyTorch ignores the comment, and does not verify the checksums in its own archives. The hash is in the file itself, so it is
valid under each of the file's names (last, previous, step=N).
"""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from xxhash import xxh3_128

from lvdm.files import BLOCK, DamagedFile, is_verifying

MARK = b"lvdm xxh3-128 "
COMMENT = len(MARK) + 32  # bytes: the mark and the digits of the hash
LENGTH = struct.Struct("<H")  # length of the comment: the last field of an archive before it; torch writes 0


class CheckedIO(TorchCheckpointIO):
    """Writes checkpoints with their hash, and verifies it when they are read.

    A write error is stored in `error` and not raised: it occurs in one process only, and the others would wait for it.
    """

    error: Exception | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        self.error = None
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_checkpoint(checkpoint, Path(path))
            torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            self.error = error

    def load_checkpoint(self, path: str | Path, *arguments: Any, **named: Any) -> dict[str, Any]:
        check_checkpoint_file(Path(path))
        return super().load_checkpoint(path, *arguments, **named)


def write_error(trainer: pl.Trainer) -> Exception | None:
    """Return the error of this process's last write of a checkpoint."""
    io = trainer.strategy.checkpoint_io
    return io.error if isinstance(io, CheckedIO) else None


class _HashedFile:
    """A file for `torch.save` that hashes what is written, and stores the system's error, which torch replaces by its own."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash = file, xxh3_128()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.hash.update(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint with its hash, and flush it to the disk."""
    with path.open("wb") as file:
        hashed = _HashedFile(file)
        try:
            torch.save(checkpoint, hashed)  # type: ignore[arg-type]  # torch needs write and flush alone
        except RuntimeError as error:
            raise hashed.error or error from error
        file.seek(-LENGTH.size, os.SEEK_END)
        file.write(LENGTH.pack(COMMENT) + MARK + hashed.hash.hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())


def check_checkpoint_file(path: Path) -> bool:
    """Check a checkpoint against its hash; return False if it has no hash, or if verification is off."""
    stat = path.stat()
    return is_verifying() and _check(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _check(path: Path, size: int, mtime: int) -> bool:
    """Check a file once, however often it is opened; `size` and `mtime` are in the cache key to notice changes."""
    digest, block, left = xxh3_128(), memoryview(bytearray(BLOCK)), size - COMMENT - LENGTH.size
    if left < 0:
        return False
    with path.open("rb", buffering=0) as file:
        file.seek(left)
        end = file.read()
        length, mark, wanted = end[: LENGTH.size], end[LENGTH.size : -32], end[-32:]
        if mark != MARK:
            file.seek(0)
            if file.read(2) == b"PK" and not end.endswith(LENGTH.pack(0)):  # torch's own archives end with an empty comment
                raise DamagedFile(f"the checkpoint {path} is truncated, or damaged at its end")
            return False
        file.seek(0)
        while left and (got := file.readinto(block[:left])):
            digest.update(block[:got])
            left -= got
    digest.update(LENGTH.pack(0))
    if length != LENGTH.pack(COMMENT) or digest.hexdigest().encode() != wanted:
        raise DamagedFile(f"the checkpoint {path} is damaged: its content is not what was written")
    return True
