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

AT_ONCE = 32  # frames decoded before those that are not wanted are dropped

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
    """A file that decord reads, always forward from a frame where its seeking is exact (see `decoding_start`)."""

    def __init__(self, path: Path) -> None:
        import decord  # here: whoever trains on cached latents does not need it

        decord.logging.set_level(decord.logging.QUIET)  # what is wrong is told by the exception
        self.path = path
        self._errors = (RuntimeError, decord.DECORDError, IndexError)
        self._next = 0  # the frame that comes next without seeking
        with _naming(path, *self._errors):
            self._reader = decord.VideoReader(os.fspath(path), num_threads=1)  # 1: 7.4 ms for 132 frames of 64 x 64, 2: 10.2 ms
            self.num_frames = len(self._reader)
            self.fps = float(self._reader.get_avg_fps())

    def read(self, frames: Sequence[int]) -> Frames:
        wanted, kept = set(frames), {}
        start, stop = self._start(min(frames)), max(frames) + 1
        with _naming(self.path, *self._errors):
            for at in range(start, stop, AT_ONCE):
                part = range(at, min(at + AT_ONCE, stop))
                decoded = self._reader.get_batch(list(part)).asnumpy()
                kept |= {frame: decoded[frame - at].copy() for frame in part if frame in wanted}
                self._next = part.stop
        return np.stack([kept[frame] for frame in frames])

    def _start(self, first: int) -> int:
        """Go on from where the last read ended, or seek, whichever decodes less."""
        keys = [] if self.path.suffix.lower() == ".avi" else self._reader.get_key_indices()  # avi: no times, so no exact seek
        start = decoding_start(keys, first)
        return self._next if start <= self._next <= first else start


def decoding_start(key_frames: Sequence[int], first: int, *, margin: int = 16) -> int:
    """Where to start decoding to have frame `first` right: the latest frame up to it that is `margin` after its key frame.

    Decord numbers key frames in the order of decoding. Where groups of pictures are open (mpeg4, mpeg2, x265 by default),
    frames shown before a key frame are decoded after it, at most 16 of them, and a seek to one of those gives another frame.
    """
    starts = [min(first, follower - 1) for follower in [*key_frames[1:], first + 1]]
    return max((start for key, start in zip(key_frames, starts, strict=False) if start - key >= margin), default=0)


class HeldVideo:
    """A video that is in memory."""

    def __init__(self, frames: Frames, fps: float) -> None:
        self.frames, self.fps, self.num_frames = frames, fps, len(frames)

    def read(self, frames: Sequence[int]) -> Frames:
        return self.frames[list(frames)]


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
