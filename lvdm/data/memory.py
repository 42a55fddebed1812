"""Whether a data set may be held in memory."""

from __future__ import annotations

import os

from lvdm.types import UserError


def require_memory(need: float, what: str) -> None:
    """UserError when `need` bytes are more than half of this machine's memory."""
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have / 2:
        sizes = f"{need / 2**30:.1f} GiB, and this machine has {have / 2**30:.1f} GiB"
        raise UserError(f"{what} would take {sizes}; set in_memory: false to read from disk")
