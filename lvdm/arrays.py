"""Checks npy and npz files from a stranger before numpy reads them: they must hold what they declare, and fit in memory."""

from __future__ import annotations

import io
import os
import tokenize
import zipfile
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from lvdm.files import LimitedFile

MAX_HEADER = 1 << 16  # bytes; that of five dimensions has 128
SMALL = 1 << 30  # bytes that may be inflated from however few
MAX_RATIO = 100  # bytes inflated from one, beyond SMALL; videos reach 50, a bomb of zeros 1,000
HEADER_ERRORS = (  # of a damaged header, which is a Python literal
    ValueError, SyntaxError, TypeError, LookupError, RuntimeError, OverflowError, MemoryError, tokenize.TokenError,
)  # fmt: skip
MAGIC = {b"\x93NUMPY\x01": 2, b"\x93NUMPY\x02": 4, b"\x93NUMPY\x03": 4}  # with the major version: bytes of the header's length


def check_arrays(path: Path) -> None:
    """Raise ValueError, OSError or BadZipFile for a file that declares more than it holds or than this machine can hold."""
    if not path.is_file():
        raise ValueError("it is not there" if not path.exists() else "it is no file")
    with path.open("rb") as file:
        if file.read(2) != b"PK":  # numpy goes by the content too
            file.seek(0)
            return _check_header(file, path.stat().st_size)
    with LimitedFile(path) as limited, zipfile.ZipFile(limited) as archive:
        entries = archive.infolist()
        inflated, stored = sum(entry.file_size for entry in entries), path.stat().st_size
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if inflated > memory / 2 or inflated > max(SMALL, MAX_RATIO * stored):
            raise ValueError(
                f"its {stored:,} bytes would become {inflated:,}, which is too much for this machine or for any video"
            )
        for entry in entries:
            with archive.open(entry) as member:
                _check_header(member, entry.file_size)


def _check_header(file: IO[bytes], size: int) -> None:
    """Refuse a header that declares another number of bytes than follow it."""
    magic = file.read(8)  # the last byte is the minor version
    width = MAGIC.get(magic[:7])
    if width is None:
        return  # of a file numpy says what is wrong, and an entry it gives as bytes
    length = int.from_bytes(length_bytes := file.read(width), "little")
    if length > MAX_HEADER:
        raise ValueError(f"its header has {length:,} bytes, more than {MAX_HEADER:,}")
    header = io.BytesIO(length_bytes + file.read(length))
    read = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(header)
    except HEADER_ERRORS as error:
        raise ValueError(f"its header is damaged ({type(error).__name__})") from error
    if dtype.hasobject or any(side < 0 for side in shape):
        raise ValueError("it holds objects, or a side below 0")
    need, have = prod(shape) * dtype.itemsize, size - 8 - width - length
    if need != have:
        raise ValueError(f"its header declares {need:,} bytes of {dtype}, and {have:,} follow")
