"""The train and test part of a folder of videos, and the order that all of it would have in one flat folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lvdm.data.reading.locations import VIDEO_SUFFIXES
from lvdm.types import UserError

PARTS = {"train": ("train",), "test": ("test",), "train+test": ("train", "test")}  # parts of a split
FOLDERS = {"train": ("train",), "test": ("test", "val")}  # folders of a part, the first that is there: test, sky_test, val, ...
WHOLE = "whole folder"  # the split of a folder without parts


def check_split(split: str) -> str:
    """Return a split that is one."""
    if split not in PARTS:
        raise UserError(f"split is {split!r}, expected {', '.join(PARTS)}")
    return split


def parts_below(root: Path) -> dict[str, Path]:
    """Return the folder of each part that a folder holds: train, test, else val; or NAME_train and so on and no other folder."""
    try:
        below = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror}; give a folder that can be read") from error
    may_have_names = all(any(_named([path], names) for names in FOLDERS.values()) for path in below)
    found = {part: _only(_named(below, names, may_have_names), root) for part, names in FOLDERS.items()}
    return {part: path for part, path in found.items() if path is not None}


def split_of(root: Path) -> str:
    """Return the part that a folder without parts is by its own name, else "whole folder"."""
    return next((part for part, names in FOLDERS.items() if _named([root.resolve()], names)), WHOLE)


def by_base_name(names: Sequence[str]) -> list[int]:
    """Return the numbers of videos in the order of one flat folder: by base name, and by the whole name if those are equal."""

    def key(number: int) -> tuple[str, str]:
        base, suffix = os.path.splitext(names[number].rpartition("/")[2])
        return base if suffix.lower() in VIDEO_SUFFIXES else base + suffix, names[number]

    return sorted(range(len(names)), key=key)


def _named(folders: Sequence[Path], names: Sequence[str], may_have_names: bool = True) -> list[Path]:
    """Return the folders of the first of these names that there are, or, if they may, of NAME_ and this name."""
    for name in names:
        found = [path for path in folders if path.name == name]
        found = found or [path for path in folders if may_have_names and path.name.endswith(f"_{name}")]
        if found:
            return found
    return []


def _only(found: Sequence[Path], root: Path) -> Path | None:
    if len(found) > 1:
        raise UserError(f"{root} holds {' and '.join(path.name for path in found)}; give one of them, or a folder of your own")
    return found[0] if found else None
