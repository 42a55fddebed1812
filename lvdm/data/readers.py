"""Reading frames of one video as uint8 (t, h, w, c): mp4, avi, webm, mkv, mov (decord), gif and folders of images (PIL).

A reader is opened where it is used and dropped afterwards, so that data sets can travel to worker processes.
Whatever is wrong with a file comes out as one `UserError` that names it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lvdm.types import UserError

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".webm", ".mkv", ".mov", ".gif"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})

Frames = NDArray[np.uint8]  # (t, h, w, 3)


class Reader(Protocol):
    """An open video."""

    num_frames: int
    fps: float

    def read(self, frames: Sequence[int]) -> Frames: ...


def open_video(path: Path, *, image_fps: float) -> Reader:
    """The reader for this path; images carry no rate, so theirs is given."""
    if path.is_dir():
        return ImageFolder(path, fps=image_fps)
    return GifFile(path) if path.suffix.lower() == ".gif" else VideoFile(path)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


class VideoFile:
    """A file that decord reads; only the frames between the key frame before the clip and its end are decoded."""

    def __init__(self, path: Path) -> None:
        import decord  # here: whoever trains on cached latents does not need it

        decord.logging.set_level(decord.logging.QUIET)  # what is wrong is told by the exception
        self.path = path
        self._errors = (RuntimeError, decord.DECORDError, IndexError)
        with _naming(path, *self._errors):
            self._reader = decord.VideoReader(os.fspath(path), num_threads=1)  # 1: 7.4 ms for 132 frames of 64 x 64, 2: 10.2 ms
            self.num_frames = len(self._reader)
            self.fps = float(self._reader.get_avg_fps())

    def read(self, frames: Sequence[int]) -> Frames:
        with _naming(self.path, *self._errors):
            return self._reader.get_batch(list(frames)).asnumpy()


class GifFile:
    """A gif; its frames are differences, so all up to the last one wanted are decoded (decord does not count gif frames)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _naming(path, OSError, EOFError, ValueError), Image.open(path) as image:
            self.num_frames = getattr(image, "n_frames", 1)
            self.fps = 1000 / (image.info.get("duration") or 100)  # ms a frame; 0 or absent is shown as 10 a second

    def read(self, frames: Sequence[int]) -> Frames:
        wanted: dict[int, Frames] = {}
        with _naming(self.path, OSError, EOFError, ValueError), Image.open(self.path) as image:
            for frame in sorted(set(frames)):
                image.seek(frame)
                wanted[frame] = np.asarray(image.convert("RGB"))
        return np.stack([wanted[frame] for frame in frames])


class ImageFolder:
    """A folder of images in natural order, one video (sky: `<video>/<clip>/*.jpg`)."""

    def __init__(self, path: Path, *, fps: float) -> None:
        self.path, self.fps = path, fps
        with _naming(path, OSError):
            self._names = sorted((name for name in os.listdir(path) if is_image(name)), key=natural_key)
        self.num_frames = len(self._names)

    def read(self, frames: Sequence[int]) -> Frames:
        images = [_read_image(self.path / self._names[frame]) for frame in frames]
        if len({image.shape for image in images}) > 1:
            raise UserError(f"cannot read {self.path}: its images differ in size")
        return np.stack(images)


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith(".")


def _read_image(path: Path) -> Frames:
    with _naming(path, OSError, ValueError), Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@contextmanager
def _naming(path: Path, *errors: type[Exception]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        why = re.sub(r"\[\d\d:\d\d:\d\d\] \S+\.cc:\d+: ", "", str(error).strip()).split("\n")[0]
        raise UserError(f"cannot read {path}: {why or type(error).__name__}") from error
