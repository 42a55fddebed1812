"""Where a video lies: a file, a folder of images, or bytes within a tar shard; its name for errors, and its stamp."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from lvdm.data.limits import MAX_MEMBER, printable, require_file
from lvdm.types import UserError

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".webm", ".mkv", ".mov", ".gif"})
NPZ_ENTRY = "video.npy"  # of an npz with one video, uint8 (t, h, w, 3)
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


@dataclass(frozen=True)
class TarMember:
    """A member of a tar shard: `size` bytes from `start`."""

    shard: Path
    name: str
    start: int
    size: int

    def read(self) -> bytes:
        """Return the member's bytes."""
        if self.size > MAX_MEMBER:
            raise UserError(f"cannot read {printable(str(self))}: it has {self.size:,} bytes, more than {MAX_MEMBER:,}")
        with self.shard.open("rb") as file:
            file.seek(self.start)
            content = file.read(self.size)
        if len(content) < self.size:
            raise UserError(f"cannot read {printable(str(self))}: the shard ends before it does")
        return content

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


FileLocation = Path | TarMember  # of one file's bytes
Location = FileLocation | tuple[TarMember, ...]  # of one video; several members are its images, in order


def as_file(location: FileLocation) -> str | BytesIO:
    """Return what libraries open: the path of a regular file, or a file in memory."""
    if isinstance(location, TarMember):
        return BytesIO(location.read())
    require_file(location)
    return os.fspath(location)


def label_of(location: Location) -> str:
    """Return the name of a location for errors."""
    return printable(str(location[0] if isinstance(location, tuple) else location))


@contextmanager
def naming(location: Location, *errors: type[Exception]) -> Iterator[None]:
    """Raise these errors as a UserError that names the location."""
    try:
        yield
    except UserError:  # is a ValueError, and names the location already
        raise
    except errors as error:
        message = (getattr(error, "strerror", None) or str(error)).strip()  # strerror lacks the path, which is named here
        why = re.sub(r"\[\d\d:\d\d:\d\d\] \S+\.cc:\d+: ", "", message).split("\n")[0]
        raise UserError(f"cannot read {label_of(location)}: {printable(why) or type(error).__name__}") from error


def suffix_of(location: FileLocation) -> str:
    """Return the ending of a file's name, in lower case."""
    return os.path.splitext(location.name)[1].lower()


def stamp(location: Location) -> list[int]:
    """Return sizes and times of change; a changed video has another stamp. A folder's counts added and removed images only."""
    first = location[0] if isinstance(location, tuple) else location
    file, place = (first.shard, (first.start, first.size)) if isinstance(first, TarMember) else (first, ())
    status = file.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise UserError(f"cannot read {label_of(location)}: it is neither a file nor a folder")
    return [status.st_size, status.st_mtime_ns, *place]


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order: frame2 before frame10."""
    return [folder / name for name in sorted(filter(is_image, os.listdir(folder)), key=natural_key)]


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", name)  # every second one is a number; int() takes at most 640 digits on any machine
    return [(int(part), "") if at % 2 and len(part) <= 640 else (-1, part) for at, part in enumerate(parts)]


def is_image(name: str) -> bool:
    """Return whether a file of this name is an image; hidden ones are not."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def is_video(name: str) -> bool:
    """Return whether a file of this name is a video; hidden ones are not."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith(".")


def is_npz_video(path: Path) -> bool:
    """Return whether this is the npz of a video as lvdm writes it; other arrays, such as a toy's truth, are none."""
    if path.suffix.lower() != ".npz" or path.name.startswith(".") or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist() == [NPZ_ENTRY]
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
