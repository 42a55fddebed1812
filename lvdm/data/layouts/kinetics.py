"""Kinetics-400, 600 and 700 by class folders or official lists; videos that were removed from the web are missing."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lvdm.data.layouts.listing import Description, Video, find_videos, video_at
from lvdm.data.layouts.tables import Row, read_rows
from lvdm.types import UserError

logger = logging.getLogger(__name__)

PARTS = ("train", "val", "test")


class Kinetics:
    """Kinetics: `<part>/<class>/<YouTube id>_<start>_<end>.mp4` below the root. Labels count the sorted classes from 0.

    Args:
        part: train, val or test: the folder that is searched.
        file: the official CSV (label, youtube_id, time_start, time_end, split). Only its videos of this part are taken, with its
            labels; they may lie in one folder then. Left out, the folders of all parts name the classes.
    """

    def __init__(self, part: Literal["train", "val", "test"], *, file: str | Path | None = None) -> None:
        self.part, self.file = part, None if file is None else Path(file).expanduser()

    def find(self, root: Path) -> list[Video]:
        if not (root / self.part).is_dir():
            raise UserError(f"{root} has no {self.part}/, where Kinetics has its videos; check the root, or see docs/data.md")
        names = [f"{self.part}/{name}" for name in find_videos(root / self.part)]
        labels = _labels_of_folders(root, names) if self.file is None else self._labels_of_list(self.file, names)
        if not labels:
            where = self.file or "the folder of a class"
            raise UserError(f"none of the {len(names)} videos of {root / self.part} is in {where}; see docs/data.md")
        return [video_at(root, name, Description(label=label)) for name, label in labels.items()]

    def _labels_of_list(self, file: Path, names: Sequence[str]) -> dict[str, int | None]:
        """Return the labels of the videos that the list has for this part; the others of the list are counted as missing."""
        rows = list(read_rows(file))
        mine = [each for each in rows if str(each[1].get("split", self.part)).startswith(self.part)]  # some write validate
        listed = {_clip_of_row(row, f"line {number} of {file}"): row for number, row in mine}
        classes = sorted({row["label"] for _, row in rows if row.get("label")})
        labels = {label: number for number, label in enumerate(classes)}
        present = {name: clip for name in names if (clip := _clip_of_file(name)) in listed}
        if len(present) < len(listed):
            logger.warning("%d of %d videos of %s are missing", len(listed) - len(present), len(listed), file)
        return {name: labels.get(listed[clip].get("label")) for name, clip in present.items()}


def _labels_of_folders(root: Path, names: Sequence[str]) -> dict[str, int]:
    """Return the label of each video in the folder of a class; the classes are those of all parts, so that parts agree."""
    folders = {folder.name for part in PARTS if (root / part).is_dir() for folder in (root / part).iterdir() if folder.is_dir()}
    classes = {name: label for label, name in enumerate(sorted(folders))}
    return {name: classes[name.split("/")[1]] for name in names if name.count("/") > 1}


def _clip_of_file(name: str) -> tuple[str, int, int] | None:
    """Return the YouTube id and the seconds in the name of a file; ids may hold underscores themselves."""
    match = re.fullmatch(r"(.+)_(\d{1,9})_(\d{1,9})", Path(name).stem)
    return None if match is None else (match[1], int(match[2]), int(match[3]))


def _clip_of_row(row: Row, where: str) -> tuple[str, int, int]:
    try:
        return row["youtube_id"], int(float(row["time_start"])), int(float(row["time_end"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        expected = "expected the columns label, youtube_id, time_start, time_end and split of Kinetics, times in seconds"
        raise UserError(f"{where} names no clip ({error!r}); {expected}") from error
