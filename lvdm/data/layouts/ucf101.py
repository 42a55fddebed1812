"""UCF-101 with its official lists: class folders or all files in one folder, labels from the list of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lvdm.data.layouts.listing import Description, Video, find_videos, video_at
from lvdm.data.limits import printable, read_lines
from lvdm.types import UserError


class UCF101:
    """UCF-101: `<Class>/v_<Class>_gXX_cYY.avi` or all files in one folder, below the root or its `UCF-101/`; classes are labels.

    Args:
        part: train or test of the official lists; all takes every video.
        fold: which of the three official lists.
        lists: the folder of classInd.txt, trainlist01.txt and so on; left out, `ucfTrainTestlist` in the root or next to it.
    """

    def __init__(self, part: Literal["train", "test", "all"], *, fold: int = 1, lists: str | Path | None = None) -> None:
        if fold not in (1, 2, 3):
            raise UserError(f"fold is {fold}, but UCF-101 has the official lists 1, 2 and 3")
        self.part, self.fold = part, fold
        self.lists = None if lists is None else Path(lists).expanduser()

    def find(self, root: Path) -> list[Video]:
        folder = root / "UCF-101" if (root / "UCF-101").is_dir() else root
        lists = self._lists(root)
        classes = _classes(lists / "classInd.txt")
        present = {Path(name).name: (folder / name).relative_to(root).as_posix() for name in find_videos(folder)}
        videos = [_ucf_video(root, present.get(file, file), file, classes) for file in self._files(lists, present)]
        missing = sum(Path(video.name).name not in present for video in videos)
        if missing == len(videos):
            raise UserError(f"none of the {len(videos)} videos of UCF-101 is under {folder}; expected v_<Class>_gXX_cYY.avi")
        return sorted(videos, key=lambda video: video.name)

    def _lists(self, root: Path) -> Path:
        folders = [self.lists] if self.lists else [root / "ucfTrainTestlist", root.parent / "ucfTrainTestlist"]
        found = next((folder for folder in folders if (folder / "classInd.txt").is_file()), None)
        if found is None:
            expected = " or ".join(map(str, folders))
            raise UserError(f"no classInd.txt in {expected}; put UCF-101's official lists there, or give their folder as lists")
        return found

    def _files(self, lists: Path, present: dict[str, str]) -> list[str]:
        if self.part == "all":
            return sorted(present)
        lines = _lines(lists / f"{self.part}list{self.fold:02d}.txt")
        return [Path(line.split()[0]).name for line in lines]  # "<Class>/<file> <number>"; test lists have no number


def _classes(path: Path) -> dict[str, int]:
    """Return the label of each class, in lower case because HandstandPushups is spelled HandStandPushups in its files."""
    pairs = [line.split() for line in _lines(path)]
    if any(len(pair) != 2 or not pair[0].isdecimal() or len(pair[0]) > 18 for pair in pairs):
        raise UserError(f"{path} is not UCF-101's list of classes; expected lines such as `1 ApplyEyeMakeup`")
    return {name.lower(): int(number) - 1 for number, name in pairs}


def _ucf_video(root: Path, name: str, file: str, classes: dict[str, int]) -> Video:
    parts = file.split("_")
    label = classes.get(parts[1].lower()) if len(parts) == 4 and parts[0] == "v" else None
    if label is None:
        raise UserError(f"{printable(str(root / name))} has no class of UCF-101; expected names such as v_Archery_g01_c01.avi")
    return video_at(root, name, Description(label=label))


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_lines(path, "one of UCF-101's official lists; put them there") if line.strip()]
