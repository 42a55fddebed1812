"""Limits on data that others made: sizes, names, labels, paths and kinds of files; and on the memory that a data set takes."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from lvdm.types import UserError

MAX_PIXELS = 1 << 26  # of one frame; twice 8K video, and 192 MiB as RGB
MAX_FRAMES = 1 << 26  # that a header may declare, 31 days at 25 a second: decord reserves 8 bytes for each, or aborts the process
MAX_READ = 1 << 29  # bytes of frames that are decoded before they are resized
MAX_LIST = 4 << 30  # bytes of a table, a metadata.jsonl or a probe cache; ten million lines have 2 GiB
MAX_NOTE = 16 << 20  # bytes of the txt, cls or json of a shard's sample
MAX_MEMBER = 4 << 30  # bytes of a video in a shard, which is read as a whole
MAX_LABEL = 2**63 - 1  # a batch holds labels as int64
BAD_LABEL = "its label is no integer from 0 to 2^63 - 1"


def is_text(text: str) -> bool:
    """Return whether text can be written as UTF-8; names of files that are not UTF-8 contain halves of surrogate pairs."""
    return text.isascii() or not re.search("[\ud800-\udfff]", text)


def as_text(text: str) -> str:
    r"""Return the text with everything that is not UTF-8 escaped as \udc80."""
    return text if is_text(text) else text.encode(errors="backslashreplace").decode()


def printable(text: str) -> str:
    """Return one line for a terminal or a log: line ends, control characters and what is not UTF-8 are escaped."""
    return as_text(text) if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def name_problem(path: Path) -> str | None:
    """Return why this path cannot be passed to a library; None if it can."""
    name = os.fspath(path)
    if "\0" in name:
        return "its name holds a NUL"
    return None if is_text(name) else "its name is not UTF-8; rename it"


def text_problem(caption: str | None, label: int | None) -> str | None:
    """Return why a batch cannot hold this caption or this label; None if it can."""
    if caption is not None and not is_text(caption):
        return "its caption is not valid text"
    return None if label is None or 0 <= label <= MAX_LABEL else BAD_LABEL


def path_problem(root: Path, name: str) -> str | None:
    """Return why the file of this name in a list must not be read; None if it may. Links below the root are followed."""
    if (why := name_problem(root / name)) is not None:
        return why
    if os.path.isabs(name) or ".." in Path(name).parts:
        return f"it lies outside {root}, which the list is about"
    return None


def require_file(path: Path) -> None:
    """Raise a UserError unless this is a regular file, because opening a FIFO or a device may never return."""
    if (why := name_problem(path)) is not None:
        raise UserError(f"cannot read {printable(str(path))}: {why}")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UserError(f"cannot read {printable(str(path))}: it is no regular file")


def require_list(path: Path) -> None:
    """Raise a UserError unless this is a regular file of a size that a list may have."""
    require_file(path)
    if (size := path.stat().st_size) > MAX_LIST:
        raise UserError(f"{path} has {size:,} bytes; expected at most {MAX_LIST:,}: split the data set")


def read_lines(path: Path, expected: str) -> list[str]:
    """Return the lines of a list in UTF-8; `expected` says in an error what the list should be."""
    try:
        require_list(path)
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; expected {expected}") from error


def require_memory(need: float, what: str) -> None:
    """Raise a UserError if `need` bytes are more than half of this machine's memory."""
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have / 2:
        sizes = f"{need / 2**30:.1f} GiB, and this machine has {have / 2**30:.1f} GiB"
        raise UserError(f"{what} would take {sizes}; set in_memory: false to read from disk")


def require_pixels(width: int, height: int, what: str) -> None:
    """Raise a UserError if a frame of this size would take too much memory."""
    if width * height > MAX_PIXELS:
        raise UserError(f"cannot read {what}: its frames have {width} x {height} pixels, more than {MAX_PIXELS:,}")


def parse_json(text: str | bytes, where: str, expected: str) -> Any:
    """Parse JSON; raise a UserError for other text, for too deep nesting and for numbers of too many digits."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or str(error).split(";")[0]
        raise UserError(f"{where} is not JSON ({reason}); expected {expected}") from error
