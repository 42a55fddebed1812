"""Reading frames of one video as uint8 (t, h, w, c): video files (video_file.py), gif and images (PIL), npz files,
frames held in memory.

A reader is opened where it is used and dropped afterwards, so that data sets can travel to worker processes. Opening and each
read have a time limit, because a folder may lie on a machine that does not answer, and a library may not return.
Whatever is wrong with a file becomes one `UserError` that names it.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, WebPImagePlugin

from lvdm.arrays import check_arrays
from lvdm.data.limits import require_pixels
from lvdm.data.reading.locations import FileLocation, Location, as_file, image_files, label_of, naming, suffix_of
from lvdm.data.reading.options import Frames, Reader, ReadingOptions
from lvdm.data.reading.time_limit import within
from lvdm.data.reading.video_file import VideoFile
from lvdm.types import UserError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", WebPImagePlugin.WebPImageFile.format)  # by content; the name may say another one of them
PICTURE_ERRORS = (  # what PIL raises for a damaged or hostile file
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, SyntaxError, RuntimeError, ArithmeticError,
    MemoryError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip

ARRAY_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError, OverflowError)


def open_video(location: Location, options: ReadingOptions | None = None) -> Reader:
    """Return a reader of the video at this location, as the options show it."""
    options = options or ReadingOptions()
    limit, name = options.time_limit, label_of(location)
    pictures = within(limit, lambda: _open_pictures(location, options.image_fps), reading=name)
    if pictures is not None:
        return shown(TimeLimited(pictures, name, time_limit=limit), location, options)
    assert not isinstance(location, tuple), "members of a shard are pictures"
    return shown(VideoFile(location, time_limit=limit), location, options)


def shown(video: Reader, location: Location, options: ReadingOptions) -> Reader:
    """Return the video as the options show it; a video that they cannot show is named."""
    try:
        return options.view(video)
    except UserError as error:
        raise UserError(f"cannot read {label_of(location)}: {error}") from error


def _open_pictures(location: Location, image_fps: float) -> Reader | None:
    """Return a reader of images or a gif; None for a video file."""
    if isinstance(location, tuple):
        return Images(location, fps=image_fps)
    if isinstance(location, Path) and location.is_dir():
        with naming(location, OSError):
            return Images(image_files(location), fps=image_fps)
    if suffix_of(location) == ".npz" and isinstance(location, Path):
        return HeldVideo(read_npz(location), image_fps)
    return GifFile(location) if suffix_of(location) == ".gif" else None


def read_npz(path: Path) -> Frames:
    """Return the frames of an npz that holds one array, uint8 (t, h, w, 3), under any name."""
    with naming(path, *ARRAY_ERRORS):
        check_arrays(path)
        with np.load(path, allow_pickle=False) as arrays:
            found = arrays[arrays.files[0]] if len(arrays.files) == 1 else None
        if found is None or found.dtype != np.uint8 or found.ndim != 4 or found.shape[-1] != 3 or 0 in found.shape:
            held = "several arrays" if found is None else f"{found.dtype} {found.shape}"
            raise ValueError(f"it holds {held}, expected one video, uint8 (t, h, w, 3)")
        return found


class TimeLimited:
    """A reader with `time_limit` seconds a read: one limit for all images of a clip, because each costs a thread."""

    def __init__(self, reader: Reader, name: str, *, time_limit: float) -> None:
        self.reader, self.name, self.time_limit = reader, name, time_limit
        self.num_frames, self.fps = reader.num_frames, reader.fps

    def read(self, frames: Sequence[int]) -> Frames:
        return within(self.time_limit, lambda: self.reader.read(frames), reading=self.name)


class HeldVideo:
    """A video that is held in memory."""

    def __init__(self, frames: Frames, fps: float) -> None:
        self.frames, self.fps, self.num_frames = frames, fps, len(frames)

    def read(self, frames: Sequence[int]) -> Frames:
        return self.frames[list(frames)]


class GifFile:
    """A gif. Its frames are differences, so all up to the last requested one are decoded (decord does not count gif frames)."""

    def __init__(self, location: FileLocation) -> None:
        self.location = location
        with naming(location, *PICTURE_ERRORS), opened_image(location) as image:
            self.num_frames = getattr(image, "n_frames", 1)
            self.fps = 1000 / (image.info.get("duration") or 100)  # ms a frame; 0 or absent is shown as 10 a second

    def read(self, frames: Sequence[int]) -> Frames:
        decoded: dict[int, Frames] = {}
        with naming(self.location, *PICTURE_ERRORS), opened_image(self.location) as image:
            size = image.size
            for frame in sorted(set(frames)):
                image.seek(frame)
                if image.size != size:
                    raise UserError(f"cannot read {label_of(self.location)}: its frames differ in size")
                decoded[frame] = np.asarray(image.convert("RGB"))
        return np.stack([decoded[frame] for frame in frames])


class Images:
    """Images in order, one video (sky: `<video>/<clip>/*.jpg`); only the requested ones are opened."""

    def __init__(self, files: Sequence[FileLocation], *, fps: float) -> None:
        self.files, self.fps, self.num_frames = files, fps, len(files)

    def read(self, frames: Sequence[int]) -> Frames:
        images = [_read_image(self.files[frame]) for frame in frames]
        if len({image.shape for image in images}) > 1:
            raise UserError(f"cannot read {label_of(self.files[frames[0]])}: images of this video differ in size")
        return np.stack(images)


def _read_image(location: FileLocation) -> Frames:
    with naming(location, *PICTURE_ERRORS), opened_image(location) as image:
        return np.asarray(image.convert("RGB"))


@contextmanager
def opened_image(location: FileLocation) -> Iterator[Image.Image]:
    """Open an image in one of a few formats and read its header; some other formats start programs or read further files."""
    with Image.open(as_file(location), formats=FORMATS) as image:
        width, height = image.size
        require_pixels(width, height, label_of(location))
        yield image
