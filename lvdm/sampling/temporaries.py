"""Temporary names of files that are being written, and the removal of those that a killed process left."""

from __future__ import annotations

import glob
import os
import shutil
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """Return a hidden name next to a file, of this process on this machine."""
    return path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}")


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_temporaries(path: Path) -> None:
    """Remove what processes of this machine that have ended left of a file; another machine may still be writing its own."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(os.uname().nodename)}-*"):
        number = left.name.removesuffix(".raw").rpartition("-")[2]
        if number.isdecimal() and not is_running(int(number)):
            remove(left)


def is_running(process: int) -> bool:
    """Return whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
