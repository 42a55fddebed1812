"""A checkpoint as a file: the zip archive of `torch.save`, whose comment holds the hash of every byte before it.

PyTorch reads over the comment, and does not check the sums in its archives itself. The hash lies in the file, so it goes with
each of its names (last, previous, step=N).
"""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import torch
from xxhash import xxh3_128

from lvdm.files import BLOCK, DamagedFile, is_verifying

MARK = b"lvdm xxh3-128 "
COMMENT = len(MARK) + 32  # bytes: the mark and the digits of the hash
LENGTH = struct.Struct("<H")  # of the comment: the last field of an archive before it, 0 when torch wrote it


class _Hashed:
    """A file that `torch.save` writes into: hashed as it grows, and keeping the system's error, which torch hides."""

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
    """Write straight to the file, with the hash, and flush it to the disk."""
    with path.open("wb") as file:
        hashed = _Hashed(file)
        try:
            torch.save(checkpoint, hashed)
        except RuntimeError as error:
            raise hashed.error or error from error
        file.seek(-LENGTH.size, os.SEEK_END)
        file.write(LENGTH.pack(COMMENT) + MARK + hashed.hash.hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())


def check_checkpoint_file(path: Path) -> bool:
    """Check a checkpoint against its hash; false if it has none, or if nothing is to be checked."""
    stat = path.stat()
    return is_verifying() and _check(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _check(path: Path, size: int, mtime: int) -> bool:
    """Read a file once, however many times it is opened: `size` and `mtime` tell whether it has changed."""
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
