"""Results of probing the files of a data set, kept on disk until a file changes.

The cache lies in the data set's root, or in the user's cache folder if the root cannot be written. Both are read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from lvdm.data.limits import require_list
from lvdm.files import locked, write_whole

logger = logging.getLogger(__name__)

FILE = ".lvdm_scan.json"
FORMAT = 1  # raised when older entries mean something else

Stamp = list[int]
Entries = dict[str, tuple[Stamp, Any]]


class ProbeCache:
    """Entries by key, each with the stamp of the file that it is about."""

    def __init__(self, root: Path) -> None:
        digest = hashlib.sha256(os.fspath(root.absolute()).encode()).hexdigest()[:16]
        user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lvdm"
        self._in_root, self._in_user_cache = root / FILE, user_cache / f"scan-{digest}.json"
        self._lock = Path(tempfile.gettempdir()) / f"lvdm-scan-{digest}.lock"
        self._entries: Entries = {}
        self._new: Entries = {}
        self.load()

    def load(self) -> None:
        """Read the files again."""
        self._entries = _read(self._in_root) | _read(self._in_user_cache) | self._new

    def get(self, key: str, stamp: Stamp) -> Any | None:
        """Return the entry, if it is about the file with this stamp."""
        entry_stamp, value = self._entries.get(key, ([], None))
        return value if entry_stamp == stamp else None

    def add(self, key: str, stamp: Stamp, value: Any) -> None:
        """Add an entry, or replace it."""
        self._entries[key] = self._new[key] = (stamp, value)

    def save(self) -> None:
        """Write the new entries; if that is possible nowhere, the next start is only slower."""
        if not self._new:
            return
        for path in (self._in_root, self._in_user_cache):
            try:
                if path is self._in_user_cache:
                    path.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps({"format": FORMAT, "entries": _read(path) | self._new})
                write_whole(path, partial(Path.write_text, data=text))
                self._new = {}
                return
            except OSError as error:
                logger.debug("cannot write %s: %s", path, error)
        logger.warning("cannot write the probe cache of %s, there or in %s", self._in_root.parent, self._in_user_cache.parent)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let the processes of one machine take turns, so that later ones find what the first one has cached."""
        with ExitStack() as stack:
            with suppress(OSError):  # another user's file, or no writable folder: each process probes for itself
                stack.enter_context(locked(self._lock))
            yield


def _read(path: Path) -> Entries:
    try:
        require_list(path)
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            return {}
        return {key: (stamp, value) for key, (stamp, value) in content["entries"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # absent, cut short or foreign
        return {}
