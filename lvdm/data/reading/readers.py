"""Reading frames of one video as uint8 (t, h, w, c): video files (video_file.py), gif and images (PIL), frames held in memory.

A reader is opened where it is used and dropped afterwards, so that data sets can travel to worker processes. Opening and each
read have a time limit, for a folder may lie on a machine that does not answer, and a library may not come back.
Whatever is wrong with a file comes out as one `UserError` that names it.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, WebPImagePlugin

from lvdm.data.limits import printable, require_pixels
from lvdm.data.reading.locations import Place, Source, as_file, image_files, label_of, suffix_of
from lvdm.data.reading.time_limit import within
from lvdm.types import UserError

TIME_LIMIT = 60.0  # seconds that opening a video, or reading a clip of it, may take

FORMATS = ("JPEG", "PNG", "GIF", "BMP", WebPImagePlugin.WebPImageFile.format)  # by content; the name may say another one of them
PICTURE_ERRORS = (  # what PIL raises for a damaged or hostile file
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, SyntaxError, RuntimeError, ArithmeticError,
    MemoryError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip

Frames = NDArray[np.uint8]  # (t, h, w, 3)


class Reader(Protocol):
    """An open video."""

    num_frames: int
    fps: float

    def read(self, frames: Sequence[int]) -> Frames: ...


def open_video(place: Place, *, image_fps: float, time_limit: float = TIME_LIMIT) -> Reader:
    """The reader for this place; images carry no rate, so theirs is given."""
    pictures = within(time_limit, lambda: _open_pictures(place, image_fps), reading=label_of(place))
    if pictures is not None:
        return Patient(pictures, place, time_limit=time_limit)
    from lvdm.data.reading.video_file import VideoFile  # which imports what stands below

    return VideoFile(place, time_limit=time_limit)


def _open_pictures(place: Place, image_fps: float) -> Reader | None:
    """What PIL reads; None for a video file."""
    if isinstance(place, tuple):
        return Images(place, fps=image_fps)
    if isinstance(place, Path) and place.is_dir():
        with naming(place, OSError):
            return Images(image_files(place), fps=image_fps)
    return GifFile(place) if suffix_of(place) == ".gif" else None


class Patient:
    """A reader with `time_limit` seconds a read: one limit for all images of a clip, since each costs a thread."""

    def __init__(self, reader: Reader, place: Place, *, time_limit: float) -> None:
        self.reader, self.place, self.time_limit = reader, place, time_limit
        self.num_frames, self.fps = reader.num_frames, reader.fps

    def read(self, frames: Sequence[int]) -> Frames:
        return within(self.time_limit, lambda: self.reader.read(frames), reading=label_of(self.place))


class HeldVideo:
    """A video that is in memory."""

    def __init__(self, frames: Frames, fps: float) -> None:
        self.frames, self.fps, self.num_frames = frames, fps, len(frames)

    def read(self, frames: Sequence[int]) -> Frames:
        return self.frames[list(frames)]


class GifFile:
    """A gif; its frames are differences, so all up to the last one wanted are decoded (decord does not count gif frames)."""

    def __init__(self, place: Source) -> None:
        self.place = place
        with naming(place, *PICTURE_ERRORS), opened_image(place) as image:
            self.num_frames = getattr(image, "n_frames", 1)
            self.fps = 1000 / (image.info.get("duration") or 100)  # ms a frame; 0 or absent is shown as 10 a second

    def read(self, frames: Sequence[int]) -> Frames:
        wanted: dict[int, Frames] = {}
        with naming(self.place, *PICTURE_ERRORS), opened_image(self.place) as image:
            size = image.size
            for frame in sorted(set(frames)):
                image.seek(frame)
                if image.size != size:
                    raise UserError(f"cannot read {label_of(self.place)}: its frames differ in size")
                wanted[frame] = np.asarray(image.convert("RGB"))
        return np.stack([wanted[frame] for frame in frames])


class Images:
    """Images in order, one video (sky: `<video>/<clip>/*.jpg`); only those that are wanted are opened."""

    def __init__(self, files: Sequence[Source], *, fps: float) -> None:
        self.files, self.fps, self.num_frames = files, fps, len(files)

    def read(self, frames: Sequence[int]) -> Frames:
        images = [read_image(self.files[frame]) for frame in frames]
        if len({image.shape for image in images}) > 1:
            raise UserError(f"cannot read {label_of(self.files[frames[0]])}: images of this video differ in size")
        return np.stack(images)


def read_image(source: Source) -> Frames:
    with naming(source, *PICTURE_ERRORS), opened_image(source) as image:
        return np.asarray(image.convert("RGB"))


@contextmanager
def opened_image(source: Source) -> Iterator[Image.Image]:
    """An image whose header is read, in one of a few formats: some others start programs or read further files."""
    with Image.open(as_file(source), formats=FORMATS) as image:
        require_pixels(*image.size, label_of(source))
        yield image


@contextmanager
def naming(place: Place, *errors: type[Exception]) -> Iterator[None]:
    """These errors as a UserError that names the place."""
    try:
        yield
    except UserError:  # is a ValueError, and names it already
        raise
    except errors as error:
        said = (getattr(error, "strerror", None) or str(error)).strip()  # strerror: without the path, which is named here
        why = re.sub(r"\[\d\d:\d\d:\d\d\] \S+\.cc:\d+: ", "", said).split("\n")[0]
        raise UserError(f"cannot read {label_of(place)}: {printable(why) or type(error).__name__}") from error
