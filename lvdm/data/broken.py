"""Broken videos: skipped, counted and named; too many are an error (design.md section 10)."""

from __future__ import annotations

import logging

from lvdm.types import UserError

logger = logging.getLogger(__name__)

SLACK = 3  # broken videos that may be chance while only part of the set was opened
TOLERATED = 1  # one broken video never stops a run, unless it is the only one


class BrokenCount:
    """Counts over one process which videos were opened and which of them could not be used."""

    def __init__(self, total: int, max_broken: float, *, root: str) -> None:
        self.total, self.max_broken, self.root = total, max_broken, root
        self.opened: set[int] = set()
        self.broken: dict[int, str] = {}  # video -> why

    def add_good(self, video: int) -> None:
        self.opened.add(video)

    def add_broken(self, video: int, why: str) -> None:
        """Count and name a video once; UserError when there are too many."""
        self.opened.add(video)
        if video in self.broken:
            return
        self.broken[video] = why
        logger.warning("skipped a video (%d of %d opened): %s", len(self.broken), len(self.opened), why)
        if self._is_too_many():
            raise UserError(
                f"{len(self.broken)} of {len(self.opened)} videos opened under {self.root} cannot be used, "
                f"more than max_broken={self.max_broken:g} of them; the last: {why}; mend or remove them, or raise max_broken"
            )

    def _is_too_many(self) -> bool:
        if len(self.broken) == self.total:
            return True
        slack = TOLERATED if len(self.opened) == self.total else SLACK
        return len(self.broken) > slack + self.max_broken * len(self.opened)
