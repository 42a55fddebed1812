"""The videos of a data set: their names in order, their captions and classes, and a fingerprint of it all.

`metadata.jsonl` has one JSON object a line: `file` (relative to the folder), and optionally `caption` (text) and `label`
(an integer class from 0). Other keys are ignored.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lvdm.data.limits import as_text, name_problem, parse_json, printable, read_lines, text_problem
from lvdm.data.reading.locations import Location, is_image, is_video
from lvdm.data.reading.options import Reader, ReadingOptions
from lvdm.data.reading.readers import open_video
from lvdm.types import ABSENT, UserError

logger = logging.getLogger(__name__)

METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Description:
    """The caption and class of one video."""

    caption: str | None = None
    label: int | None = None
    problem: str | None = None  # why the video cannot be used, whatever is in its file

    def as_batch(self) -> dict[str, str | int]:
        """Return the caption and the label, if there are any, under the batch's keys."""
        values = {"caption": self.caption, "label": self.label}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class Video:
    """One video of a data set; its name is the path below the root, with `/` on every system."""

    name: str
    location: Location
    description: Description = Description()
    reading: ReadingOptions = ReadingOptions()

    def open(self) -> Reader:
        """Return a reader of its frames, as the reading options show them."""
        return open_video(self.location, self.reading)


def require_folder(path: Path, what: str) -> None:
    """Raise a UserError that names the nearest parent that exists, unless `path` is a folder."""
    if path.is_dir():
        return
    if path.exists():
        raise UserError(f"{what} should be a folder, but {path} is a file")
    sibling = path.with_name({"val": "test", "test": "val"}.get(path.name, path.name))
    if sibling.is_dir():
        raise UserError(f"{what} {path} does not exist, but {sibling} does; give it as the root of this part of the data")
    parent = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    raise UserError(f"{what} {path} does not exist (the nearest folder that does is {parent}); check the path in the config")


def video_at(root: Path, name: str, description: Description = Description()) -> Video:
    """Return the video of this name below root; a name that cannot be used makes it a broken video."""
    problem = description.problem or name_problem(root / name)
    return Video(as_text(name), root / name, description if problem is None else Description(problem=problem))


def find_videos(root: Path, *, is_file: Callable[[Path], bool] = lambda path: is_video(path.name)) -> list[str]:
    """Return the names of all videos relative to root, sorted: video files, and folders that hold images and no video file.

    `is_file` says which files are videos. Links are followed, because data sets are often links to a big disk. Each real file and
    folder is taken once, under its own name if it lies below root, else under the first of the links to it.
    """
    found: list[tuple[bool, str, str]] = []  # whether it is a link, name, real path
    visited: set[str] = set()
    starts = [os.fspath(root)]
    while starts:
        links: list[str] = []
        for start in sorted(starts):  # folders first, then the links in them, then the links in those
            for folder, subfolders, files in os.walk(start, onerror=_warn_of):
                real = os.path.realpath(folder)
                if real in visited:
                    subfolders.clear()
                    continue
                visited.add(real)
                subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
                links += filter(os.path.islink, (os.path.join(folder, name) for name in subfolders))
                found += _videos_in(Path(folder).relative_to(root), real, files, is_file)
        starts = links
    names: dict[str, str] = {}
    for _, name, real in sorted(found):
        names.setdefault(real, name)
    if len(names) < len(found):
        logger.warning("%d links below %s lead to videos listed already, which are taken once", len(found) - len(names), root)
    return sorted(names.values())


def _warn_of(error: OSError) -> None:
    logger.warning("cannot look into the folder %s: %s", printable(str(error.filename)), error.strerror)


def _videos_in(folder: Path, real: str, files: Sequence[str], is_file: Callable[[Path], bool]) -> list[tuple[bool, str, str]]:
    """Return the videos of one folder: its video files, else the folder itself if it holds images."""
    videos = [name for name in files if is_file(Path(real, name))]
    if not videos:
        return [(False, folder.as_posix(), real)] if any(is_image(name) for name in files) else []
    paths = [os.path.join(real, name) for name in videos]
    are_links = [os.path.islink(path) for path in paths]
    reals = [os.path.realpath(path) if is_link else path for path, is_link in zip(paths, are_links, strict=True)]
    return [(is_link, (folder / name).as_posix(), each) for is_link, name, each in zip(are_links, videos, reals, strict=True)]


def read_metadata(path: Path) -> dict[str, Description]:
    """Return the description of each video that a metadata.jsonl names."""
    descriptions: dict[str, Description] = {}
    for number, line in enumerate(read_lines(path, "UTF-8 text with one JSON object a line"), start=1):
        if not line.strip():
            continue
        name, description = _parse_line(line, f"line {number} of {path}")
        if name in descriptions:
            raise UserError(f"line {number} of {path} describes {name} a second time; keep one of the lines")
        descriptions[name] = description
    return descriptions


def _parse_line(line: str, where: str) -> tuple[str, Description]:
    values = parse_json(line, where, "an object with file, caption and label")
    if not isinstance(values, dict) or not isinstance(values.get("file"), str):
        raise UserError(f"{where} has no file; expected an object with file, caption and label")
    caption, label = values.get("caption"), values.get("label")
    if caption is not None and not isinstance(caption, str):
        raise UserError(f"{where}: the caption is {caption!r}, expected text")
    if label is not None and (isinstance(label, bool) or not isinstance(label, int)):
        raise UserError(f"{where}: the label is {label!r}, expected an integer class from 0")
    return as_text(Path(values["file"]).as_posix()), Description(caption, label, text_problem(caption, label))


def match_metadata(names: Sequence[str], descriptions: dict[str, Description], source: str) -> list[Description]:
    """Return the description of each video, filled (see `fill`)."""
    matched = [descriptions.get(name, Description()) for name in names]
    unmatched = len(descriptions.keys() - set(names))
    if descriptions and unmatched == len(descriptions):
        example = f"its first is {printable(next(iter(descriptions)))}, the first video is {names[0]}"
        raise UserError(f"none of the {len(descriptions)} files of {source} is among the {len(names)} videos; {example}")
    if unmatched:
        logger.warning("%d of %d files of %s are not in the folder", unmatched, len(descriptions), source)
    filled = fill(matched)
    incomplete = sum(each != full for each, full in zip(matched, filled, strict=True))
    if incomplete:
        logger.warning("%d of %d videos have no caption or no class in %s", incomplete, len(names), source)
    return filled


def fill(descriptions: Sequence[Description]) -> list[Description]:
    """Fill what only some videos have, so that every batch has the same keys: "" as caption, ABSENT as class."""
    has_caption, has_label = (any(getattr(each, key) is not None for each in descriptions) for key in ("caption", "label"))
    return [_filled(each, has_caption, has_label) for each in descriptions]


def _filled(description: Description, has_caption: bool, has_label: bool) -> Description:
    caption = (description.caption or "") if has_caption else None
    label = (ABSENT if description.label is None else description.label) if has_label else None
    return Description(caption, label, description.problem)


def fingerprint(videos: Iterable[Video], extra: object) -> str:
    """Return a hash of `extra`, of the names and sizes of all files of these videos, and of how they are read."""
    digest = hashlib.sha256(json.dumps(extra, sort_keys=True).encode())
    for video in videos:
        for file, size in _sizes(video.location):
            digest.update(f"{video.name}\0{as_text(file)}\0{size}\n".encode())
        if changes := video.reading.changes():  # without any the hash is that of earlier versions
            digest.update(json.dumps(changes, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:32]


def _sizes(location: Location) -> list[tuple[str, int]]:
    if isinstance(location, Path):
        if not os.path.isdir(location):
            return [("", _size(location))]
        return sorted((name, _size(location / name)) for name in os.listdir(location) if is_image(name))
    return [(each.name, each.size) for each in (location if isinstance(location, tuple) else (location,))]


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 if it cannot be read."""
    try:
        return os.path.getsize(path)
    except (OSError, ValueError):
        return 0
