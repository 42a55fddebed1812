"""What was found out about the files of a data set, kept on disk until a file changes.

It lies beside the data, and where that folder cannot be written in the user's cache folder. Both are read.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from lvdm.data.limits import require_list

logger = logging.getLogger(__name__)

FILE = ".lvdm_scan.json"
FORMAT = 1  # raised when older entries mean something else

Stamp = list[int]


class Notebook:
    """Entries by key, each with the stamp of the file that it is about."""

    def __init__(self, root: Path) -> None:
        digest = hashlib.sha256(os.fspath(root.absolute()).encode()).hexdigest()[:16]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lvdm"
        self._beside, self._in_cache = root / FILE, cache / f"scan-{digest}.json"
        self._lock = Path(tempfile.gettempdir()) / f"lvdm-scan-{digest}.lock"
        self._entries: dict[str, tuple[Stamp, Any]] = {}
        self._new: dict[str, tuple[Stamp, Any]] = {}
        self.load()

    def load(self) -> None:
        """Read again what is on the disk."""
        self._entries = _read(self._beside) | _read(self._in_cache) | self._new

    def get(self, key: str, stamp: Stamp) -> Any | None:
        """What was noted for the file as it is now."""
        noted, value = self._entries.get(key, ([], None))
        return value if noted == stamp else None

    def add(self, key: str, stamp: Stamp, value: Any) -> None:
        self._entries[key] = self._new[key] = (stamp, value)

    def save(self) -> None:
        """Write what is new; a notebook that can be written nowhere is only a slower start."""
        if not self._new:
            return
        for path in (self._beside, self._in_cache):
            try:
                if path is self._in_cache:
                    path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, _read(path) | self._new)
                self._new = {}
                return
            except OSError as error:
                logger.debug("cannot write %s: %s", path, error)
        logger.warning("what was found in %s cannot be kept, beside it or in %s", self._beside.parent, self._in_cache.parent)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Processes of one machine take turns, so that the later ones find what the first one noted."""
        try:
            file = self._lock.open("w")
        except OSError:  # another user's, or nowhere to hold it: each looks for itself
            yield
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _read(path: Path) -> dict[str, tuple[Stamp, Any]]:
    try:
        require_list(path)
        found = json.loads(path.read_text())
        return {key: (stamp, value) for key, (stamp, value) in found["entries"].items()} if found["format"] == FORMAT else {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # absent, cut short or foreign
        return {}


def _write(path: Path, entries: dict[str, tuple[Stamp, Any]]) -> None:
    temporary = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        temporary.write_text(json.dumps({"format": FORMAT, "entries": entries}))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
