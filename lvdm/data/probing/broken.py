"""Broken videos: skipped, counted and named once; too many are an error (design.md section 10)."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from lvdm.data.limits import printable
from lvdm.types import UserError

logger = logging.getLogger(__name__)

NAMED = 10  # broken videos that the log names at the start; the file names all


class BrokenVideos:
    """The broken videos of a data set, with the reasons. Each process counts its own; all share the file of their names."""

    def __init__(self, total: int, max_broken: float, *, root: str) -> None:
        self.total, self.max_broken, self.root = total, max_broken, root
        self.reasons: dict[str, str] = {}  # name of the video -> why, which names its file
        self.file: Path | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.reasons

    def add(self, reasons: Mapping[str, str]) -> None:
        """Count and name videos, each once; raise a UserError if there are too many."""
        new = {name: printable(why) for name, why in reasons.items() if name not in self.reasons}
        self.reasons |= new
        for why in list(new.values())[:NAMED]:
            logger.warning("skipped a video (%d of %d): %s", len(self.reasons), self.total, why)
        if len(new) > NAMED:
            logger.warning("skipped %d more", len(new) - NAMED)
        self._write(new.values())
        if new and self._is_too_many():
            raise UserError(
                f"{len(self.reasons)} of {self.total} videos under {self.root} cannot be used, more than "
                f"max_broken={self.max_broken:g} of them; the last: {why}; mend or remove them, or raise max_broken"
            )

    def _is_too_many(self) -> bool:
        count = len(self.reasons)
        return count == self.total or count > self.max_broken * self.total

    def write_to(self, file: Path) -> None:
        """Name all broken videos in this file, from now on too."""
        self.file = file
        self._write(self.reasons.values())

    def _write(self, reasons: Collection[str]) -> None:
        """Append a line for each video without one; other processes and earlier starts wrote some."""
        if self.file is None or not reasons:
            return
        with self.file.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            written = set(file.read().splitlines())
            file.writelines(f"{why}\n" for why in reasons if why not in written)
