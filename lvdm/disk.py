"""What is said when a file could not be written."""

from __future__ import annotations

import errno
import os
import re

DISK_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}


def why_not_written(error: BaseException) -> str:
    """Return in words why a file could not be written. Other programs and libraries say it in their text only."""
    text = str(error)
    in_text = re.search(r"os error (\d+)", text)
    number = getattr(error, "errno", None) or (int(in_text[1]) if in_text else None)
    number = number or next((full for full in DISK_FULL if os.strerror(full) in text), None)
    if number is None:
        return text
    return ": ".join([*([DISK_FULL[number]] if number in DISK_FULL else []), os.strerror(number)])
