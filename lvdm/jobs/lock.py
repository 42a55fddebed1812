"""Locks of folders: one training at a time in a run's folder, only processes with equal settings in a cache's.

The system releases a lock when its process ends, in whatever way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lvdm.files import is_at, why_not_written
from lvdm.jobs.run_folder import RunFolder
from lvdm.types import UserError

logger = logging.getLogger(__name__)

NAME = ".lock"
RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")  # of torchrun, SLURM and Lightning


@contextmanager
def only_one(run: RunFolder) -> Iterator[None]:
    """Hold the lock of a run's folder; refuse if another process holds it. A folder that stays empty is removed again.

    The first process of several holds it for all of them. A file system without locks gets a warning, and the work continues.
    The lock is a record lock, which worker processes do not inherit: it ends with the process itself, and it works over NFS.
    """
    if not is_first():
        yield
        return
    missing = [each for each in (run.path, *run.path.parents) if not each.exists()]
    run.make()
    path = run.path / NAME
    file = _locked(path)
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)  # while it is held: afterwards it may be another's
            os.close(file)
        with contextlib.suppress(OSError):  # one that is not empty stays
            for folder in missing:
                folder.rmdir()


@contextmanager
def only_alike(folder: Path, facts: Mapping[str, Any]) -> Iterator[None]:
    """Share the lock of a folder with processes that have the same facts; refuse while others write there."""
    path = folder / NAME
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            why = why_not_written(error)
            raise UserError(f"cannot make the folder {folder} or write into it: {why}; choose another one") from error
        try:
            if _is_alone(file):
                _write(file, json.dumps(dict(facts)))
            fcntl.lockf(file, fcntl.LOCK_SH)  # waits while another one writes its facts
        except OSError as error:
            _warn(path, error)
            break
        if is_at(path, file):
            break
        os.close(file)
    try:
        _check_alike(folder, file, facts)
        yield
    finally:
        if _is_alone(file):
            path.unlink(missing_ok=True)
        os.close(file)


def _is_alone(file: int) -> bool:
    """Return whether nobody else holds the lock, which then is this process's alone."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _check_alike(folder: Path, file: int, facts: Mapping[str, Any]) -> None:
    try:
        theirs = json.loads(os.pread(file, 1 << 20, 0))
    except ValueError:  # a full disk has kept them from being written
        return
    differing = [name for name, value in json.loads(json.dumps(dict(facts))).items() if theirs.get(name) != value]
    if differing:
        raise UserError(
            f"{folder} is being written by another process, with another {' and '.join(differing)}; wait until it ends, "
            "or choose another folder"
        )


def is_first() -> bool:
    """Return whether this is the first of the processes that were started together, on any machine."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def _locked(path: Path) -> int | None:
    """Return the descriptor of the locked file; None if there can be no lock here."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            _warn(path, error)
            return None
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(file)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                _warn(path, error)
                return None
            raise UserError(f"{path.parent} is in use by {holder}; wait until it ends, or give the run another name") from error
        if is_at(path, file):
            _write(file, f"process {os.getpid()} on {socket.gethostname()}\n")
            return file
        os.close(file)  # its holder has removed it just now, and a lock on a removed file keeps nobody out


def _write(file: int, text: str) -> None:
    """Write who holds the lock, or what is equal, for the message to others; a full disk does not stop the work."""
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, text.encode(), 0)


def _warn(path: Path, error: OSError) -> None:
    logger.warning("cannot lock %s (%s): make sure that nothing else writes into it", path.parent, error.strerror)
