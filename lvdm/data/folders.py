"""What lies in a folder of videos: their names in order, captions and classes beside them, and a fingerprint of it all.

`metadata.jsonl` has one JSON object a line: `file` (relative to the folder), and as known `caption` (text) and `label`
(an integer class from 0). Other keys may stand there and are not read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lvdm.data.places import Place, is_image, is_video
from lvdm.types import ABSENT, UserError

logger = logging.getLogger(__name__)

METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Description:
    """What is known about one video beside its frames."""

    caption: str | None = None
    label: int | None = None

    def facts(self) -> dict[str, str | int]:
        """What is known, under the batch's keys."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Video:
    """One video of a data set; the name is where it lies below the root, with `/` on every system."""

    name: str
    place: Place
    known: Description = Description()


def require_folder(path: Path, what: str) -> None:
    """UserError that names the nearest parent that exists, unless `path` is a folder."""
    if path.is_dir():
        return
    if path.exists():
        raise UserError(f"{what} should be a folder, but {path} is a file")
    parent = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    raise UserError(f"{what} {path} does not exist (the nearest folder that does is {parent}); check the path in the config")


def find_videos(root: Path) -> list[str]:
    """Names relative to root, sorted: every video file, and every folder that holds images and no video file."""
    names: list[str] = []
    for folder, subfolders, files in os.walk(root, followlinks=True):  # data sets are often links to a big disk
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        here = Path(folder).relative_to(root)
        videos = [(here / name).as_posix() for name in files if is_video(name)]
        if not videos and any(is_image(name) for name in files):
            videos = [here.as_posix()]
        names += videos
    return sorted(names)


def read_metadata(path: Path) -> dict[str, Description]:
    """Name of the video -> what is known about it."""
    known: dict[str, Description] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        name, description = _parse_line(line, f"line {number} of {path}")
        if name in known:
            raise UserError(f"line {number} of {path} describes {name} a second time; keep one of the lines")
        known[name] = description
    return known


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; expected UTF-8 text with one JSON object a line") from error


def _parse_line(line: str, where: str) -> tuple[str, Description]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg}); expected an object with file, caption and label") from error
    if not isinstance(found, dict) or not isinstance(found.get("file"), str):
        raise UserError(f"{where} has no file; expected an object with file, caption and label")
    caption, label = found.get("caption"), found.get("label")
    if caption is not None and not isinstance(caption, str):
        raise UserError(f"{where}: the caption is {caption!r}, expected text")
    if label is not None and (isinstance(label, bool) or not isinstance(label, int) or label < 0):
        raise UserError(f"{where}: the label is {label!r}, expected an integer class from 0")
    return Path(found["file"]).as_posix(), Description(caption, label)


def match_metadata(names: Sequence[str], known: dict[str, Description], source: str) -> list[Description]:
    """The description of each video, filled."""
    found = [known.get(name, Description()) for name in names]
    unmatched = len(known.keys() - set(names))
    if known and unmatched == len(known):
        raise UserError(f"none of the {len(known)} files of {source} is among the {len(names)} videos; {_example(names, known)}")
    if unmatched:
        logger.warning("%d of %d files of %s are not in the folder", unmatched, len(known), source)
    filled = fill(found)
    bare = sum(each != full for each, full in zip(found, filled, strict=True))
    if bare:
        logger.warning("%d of %d videos have no caption or no class in %s", bare, len(names), source)
    return filled


def fill(found: Sequence[Description]) -> list[Description]:
    """What only some have is filled, so that every batch has the same keys: no caption is "", no class is ABSENT; what none of
    them has stays None."""
    has_caption, has_label = (any(getattr(each, key) is not None for each in found) for key in ("caption", "label"))
    return [_filled(each, has_caption, has_label) for each in found]


def _example(names: Sequence[str], known: dict[str, Description]) -> str:
    return f"it says {next(iter(known))}, the folder has {names[0]}"


def _filled(description: Description, has_caption: bool, has_label: bool) -> Description:
    caption = (description.caption or "") if has_caption else None
    label = (ABSENT if description.label is None else description.label) if has_label else None
    return Description(caption, label)


def fingerprint(videos: Iterable[Video], extra: object) -> str:
    """A hash of the names and sizes of all files of these videos, and of `extra`."""
    digest = hashlib.sha256(json.dumps(extra, sort_keys=True).encode())
    for video in videos:
        for file, size in _sizes(video.place):
            digest.update(f"{video.name}\0{file}\0{size}\n".encode())
    return digest.hexdigest()[:32]


def _sizes(place: Place) -> list[tuple[str, int]]:
    if isinstance(place, Path):
        if not place.is_dir():
            return [("", place.stat().st_size if place.exists() else 0)]
        with os.scandir(place) as entries:
            return sorted((entry.name, entry.stat().st_size) for entry in entries if is_image(entry.name))
    return [(each.name, each.size) for each in (place if isinstance(place, tuple) else (place,))]
