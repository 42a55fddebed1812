"""Where one video lies: a file, a folder of images, or bytes within a tar shard; its name for errors, and whether it changed."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from lvdm.data.limits import MAX_MEMBER, printable, require_file
from lvdm.types import UserError

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".webm", ".mkv", ".mov", ".gif"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


@dataclass(frozen=True)
class Slice:
    """A member of a tar shard: `size` bytes from `start`."""

    shard: Path
    name: str
    start: int
    size: int

    def read(self) -> bytes:
        if self.size > MAX_MEMBER:
            raise UserError(f"cannot read {printable(str(self))}: it has {self.size:,} bytes, more than {MAX_MEMBER:,}")
        with self.shard.open("rb") as file:
            file.seek(self.start)
            found = file.read(self.size)
        if len(found) < self.size:
            raise UserError(f"cannot read {printable(str(self))}: the shard ends before it does")
        return found

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


Source = Path | Slice  # of one file's bytes
Place = Path | Slice | tuple[Slice, ...]  # of one video; several slices are its images, in order


def as_file(source: Source) -> str | BytesIO:
    """What libraries open: the path of a regular file, or a file in memory."""
    if isinstance(source, Slice):
        return BytesIO(source.read())
    require_file(source)
    return os.fspath(source)


def label_of(place: Place) -> str:
    """How an error names it."""
    return printable(str(place[0] if isinstance(place, tuple) else place))


def suffix_of(source: Source) -> str:
    return os.path.splitext(source.name)[1].lower()


def stamp(place: Place) -> list[int]:
    """Sizes and times of change: another stamp, another video. A folder changes when images come or go."""
    file = place[0].shard if isinstance(place, tuple) else place.shard if isinstance(place, Slice) else place
    slices = place if isinstance(place, tuple) else (place,) if isinstance(place, Slice) else ()
    found = file.stat()
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise UserError(f"cannot read {label_of(place)}: it is neither a file nor a folder")
    return [found.st_size, found.st_mtime_ns, *(number for each in slices[:1] for number in (each.start, each.size))]


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order: frame2 before frame10."""
    return [folder / name for name in sorted(filter(is_image, os.listdir(folder)), key=natural_key)]


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", name)  # every second one is a number; int() takes at most 640 digits on any machine
    return [(int(part), "") if at % 2 and len(part) <= 640 else (-1, part) for at, part in enumerate(parts)]


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith(".")
