"""Splits: which videos of a data set belong to a part of it, by a list, by folder, or a seeded fraction."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from lvdm.data.limits import printable, read_lines
from lvdm.types import UserError

logger = logging.getLogger(__name__)


@runtime_checkable
class Split(Protocol):
    """Chooses among the names of videos, which are relative to the root."""

    def choose(self, names: Sequence[str]) -> list[str]: ...


class ListSplit:
    """The videos that a text file names, one a line, with or without the suffix.

    Args:
        file: the list.
        exclude: take all the others instead.
    """

    def __init__(self, file: str | Path, *, exclude: bool = False) -> None:
        self.file, self.exclude = Path(file).expanduser(), exclude

    def choose(self, names: Sequence[str]) -> list[str]:
        lines = {line.strip() for line in read_lines(self.file, "the name of a video on each line")} - {""}
        listed = {name for name in names if not lines.isdisjoint((name, _without_suffix(name)))}
        unknown = lines - listed - {_without_suffix(name) for name in listed}
        example = printable(min(unknown, default=""))
        if unknown and not listed:
            raise UserError(
                f"none of the {len(lines)} lines of {self.file} names a video: the list has {example}, the data set {names[0]}"
            )
        if unknown:
            logger.warning("%d of %d lines of %s name no video, such as %s", len(unknown), len(lines), self.file, example)
        return [name for name in names if (name in listed) != self.exclude]


class FolderSplit:
    """The videos below these folders of the root."""

    def __init__(self, folders: str | Sequence[str]) -> None:
        self.folders = [folders] if isinstance(folders, str) else list(folders)

    def choose(self, names: Sequence[str]) -> list[str]:
        for folder in self.folders:
            if not any(_is_below(name, folder) for name in names):
                raise UserError(f"no video lies below {folder}; the first of the data set is {names[0]}")
        return [name for name in names if any(_is_below(name, folder) for folder in self.folders)]


class FractionSplit:
    """The videos whose hash of seed and name, from 0 to 1, lies from `start` up to `stop`; new videos move no old one.

    Args:
        start, stop: `0, 0.9` for training and `0.9, 1` for validation share no video if their seed is the same.
        by_folder: hash the folder instead of the name, so that the clips of one long video stay together.
    """

    def __init__(self, start: float, stop: float, *, seed: int = 0, by_folder: bool = False) -> None:
        if not 0 <= start < stop <= 1:
            raise UserError(f"start={start:g}, stop={stop:g}: expected fractions with 0 <= start < stop <= 1")
        self.start, self.stop, self.seed, self.by_folder = start, stop, seed, by_folder

    def choose(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self.start <= self._position(name) < self.stop]

    def _position(self, name: str) -> float:
        key = name.rpartition("/")[0] if self.by_folder else name
        digest = hashlib.blake2b(f"{self.seed}/{key}".encode(), digest_size=6).digest()
        return int.from_bytes(digest, "little") / 2**48


def _is_below(name: str, folder: str) -> bool:
    return name.startswith(f"{folder.strip('/')}/")


def _without_suffix(name: str) -> str:
    head, dot, _ = name.rpartition(".")
    return head if dot else name
