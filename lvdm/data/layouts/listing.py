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
from dataclasses import dataclass
from pathlib import Path

from lvdm.data.limits import as_text, name_problem, parse_json, printable, require_list, text_problem
from lvdm.data.reading.locations import Place, is_image, is_video
from lvdm.types import ABSENT, UserError

logger = logging.getLogger(__name__)

METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Description:
    """What is known about one video beside its frames."""

    caption: str | None = None
    label: int | None = None
    problem: str | None = None  # why the video cannot be used, whatever is in its file

    def facts(self) -> dict[str, str | int]:
        """What is known, under the batch's keys."""
        known = {"caption": self.caption, "label": self.label}
        return {key: value for key, value in known.items() if value is not None}


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


def video_at(root: Path, name: str, known: Description = Description()) -> Video:
    """The video of this name below root, with what is wrong about its name or description."""
    problem = known.problem or name_problem(root / name)
    return Video(as_text(name), root / name, known if problem is None else Description(problem=problem))


def find_videos(root: Path) -> list[str]:
    """Names relative to root, sorted: every video file, and every folder that holds images and no video file.

    Links are followed, since data sets are often links to a big disk. Each real file and folder is taken once, under its own name
    where it lies below root, else under the first of the links to it.
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
                found += _videos_in(Path(folder).relative_to(root), real, files)
        starts = links
    names: dict[str, str] = {}
    for _, name, real in sorted(found):
        names.setdefault(real, name)
    if len(names) < len(found):
        logger.warning("%d links below %s lead to a video that is there already; it is taken once", len(found) - len(names), root)
    return sorted(names.values())


def _warn_of(error: OSError) -> None:
    logger.warning("cannot look into the folder %s: %s", printable(str(error.filename)), error.strerror)


def _videos_in(folder: Path, real: str, files: Sequence[str]) -> list[tuple[bool, str, str]]:
    """The videos of one folder: its video files, else the folder itself if it holds images."""
    videos = [name for name in files if is_video(name)]
    if not videos:
        return [(False, folder.as_posix(), real)] if any(is_image(name) for name in files) else []
    paths = [os.path.join(real, name) for name in videos]
    are_links = [os.path.islink(path) for path in paths]
    reals = [os.path.realpath(path) if is_link else path for path, is_link in zip(paths, are_links, strict=True)]
    return [(is_link, (folder / name).as_posix(), each) for is_link, name, each in zip(are_links, videos, reals, strict=True)]


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
        require_list(path)
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; expected UTF-8 text with one JSON object a line") from error


def _parse_line(line: str, where: str) -> tuple[str, Description]:
    found = parse_json(line, where, "an object with file, caption and label")
    if not isinstance(found, dict) or not isinstance(found.get("file"), str):
        raise UserError(f"{where} has no file; expected an object with file, caption and label")
    caption, label = found.get("caption"), found.get("label")
    if caption is not None and not isinstance(caption, str):
        raise UserError(f"{where}: the caption is {caption!r}, expected text")
    if label is not None and (isinstance(label, bool) or not isinstance(label, int)):
        raise UserError(f"{where}: the label is {label!r}, expected an integer class from 0")
    return as_text(Path(found["file"]).as_posix()), Description(caption, label, text_problem(caption, label))


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
    return f"it says {printable(next(iter(known)))}, the folder has {names[0]}"


def _filled(description: Description, has_caption: bool, has_label: bool) -> Description:
    caption = (description.caption or "") if has_caption else None
    label = (ABSENT if description.label is None else description.label) if has_label else None
    return Description(caption, label, description.problem)


def fingerprint(videos: Iterable[Video], extra: object) -> str:
    """A hash of the names and sizes of all files of these videos, and of `extra`."""
    digest = hashlib.sha256(json.dumps(extra, sort_keys=True).encode())
    for video in videos:
        for file, size in _sizes(video.place):
            digest.update(f"{video.name}\0{as_text(file)}\0{size}\n".encode())
    return digest.hexdigest()[:32]


def _sizes(place: Place) -> list[tuple[str, int]]:
    if isinstance(place, Path):
        if not os.path.isdir(place):
            return [("", _size(place))]
        return sorted((name, _size(place / name)) for name in os.listdir(place) if is_image(name))
    return [(each.name, each.size) for each in (place if isinstance(place, tuple) else (place,))]


def _size(path: Path) -> int:
    """Bytes of a file; 0 if it cannot be asked."""
    try:
        return os.path.getsize(path)
    except (OSError, ValueError):
        return 0
