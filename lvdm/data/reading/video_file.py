"""Video files: decord reads them, and PyAV if decord fails or does not return.

Decord has open reports of reads that never return, and of readers that deadlock in a process forked after they were created. So
decord is loaded only where frames are read, which is in the workers if there are any. Each call has a time limit. This process
never passes a file to decord again once decord has failed on it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from lvdm.data.limits import MAX_FRAMES, MAX_PIXELS, require_pixels
from lvdm.data.reading.locations import FileLocation, TarMember, as_file, label_of, naming, suffix_of
from lvdm.data.reading.options import Frames, Reader, ReadingOptions
from lvdm.data.reading.time_limit import within
from lvdm.types import UserError

logger = logging.getLogger(__name__)

DEMUXER = {  # playlists, lists of files and other formats that name further files are not opened
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,h264,hevc,m4v,gif",
    "protocol_whitelist": "file",
}
BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")  # that mp4 and mov begin with, after their length
AT_ONCE = 32  # frames decoded before those that were not requested are dropped

Answer = TypeVar("Answer")

_not_for_decord: set[str] = set()  # names of files that decord failed on in this process


class VideoFile:
    """A video file, read by the first library that can, with `time_limit` seconds a call."""

    def __init__(self, location: FileLocation, *, time_limit: float = ReadingOptions.time_limit) -> None:
        self.location, self.time_limit = location, time_limit
        is_for_decord = label_of(location) not in _not_for_decord and _has_video_header(location, time_limit)
        self._libraries: tuple[type, ...] = LIBRARIES if is_for_decord else LIBRARIES[1:]
        self._readers: dict[type, Reader] = {}
        self.num_frames, self.fps = self._ask(lambda reader: (reader.num_frames, reader.fps))

    def read(self, frames: Sequence[int]) -> Frames:
        return self._ask(lambda reader: reader.read(frames))

    def _ask(self, question: Callable[[Reader], Answer]) -> Answer:
        name = label_of(self.location)
        while True:
            library = self._libraries[0]
            try:
                return within(self.time_limit, partial(self._answer, question, library), reading=name)
            except UserError as error:
                self._libraries = self._libraries[1:]
                if not self._libraries:
                    raise
                _not_for_decord.add(name)
                logger.info("PyAV reads what decord could not: %s", error)

    def _answer(self, question: Callable[[Reader], Answer], library: type) -> Answer:
        if library not in self._readers:
            self._readers[library] = library(self.location)
        return question(self._readers[library])


def _has_video_header(location: FileLocation, time_limit: float) -> bool:
    """Return whether the file begins as mp4, mov, mkv, webm or avi do. Decord would open playlists too, and what they name."""
    begin = within(time_limit, lambda: _first_bytes(location), reading=label_of(location))
    return begin[4:8] in BOXES or begin.startswith((b"\x1aE\xdf\xa3", b"RIFF"))


def _first_bytes(location: FileLocation) -> bytes:
    with naming(location, OSError):
        if isinstance(location, TarMember):
            return replace(location, size=min(location.size, 8)).read()
        with open(location, "rb") as file:
            return file.read(8)


class DecordFile:
    """A video file read by decord, always forward from a frame to which its seeking is exact (see `decoding_start`)."""

    def __init__(self, location: FileLocation) -> None:
        import decord  # late, so that only the workers load it

        decord.logging.set_level(decord.logging.QUIET)  # exceptions say what is wrong
        self.location = location
        self._errors = (RuntimeError, decord.DECORDError, IndexError)
        self._next = 0  # the frame that follows without seeking
        with naming(location, *self._errors, OSError):
            self._reader = decord.VideoReader(as_file(location), num_threads=1)  # 1: 7.4 ms for 132 frames of 64 x 64, 2: 10.2 ms
            self.num_frames = len(self._reader)
            self.fps = float(self._reader.get_avg_fps())

    def read(self, frames: Sequence[int]) -> Frames:
        requested = set(frames)
        kept: dict[int, Frames] = {}
        start, stop = self._start(min(frames)), max(frames) + 1
        with naming(self.location, *self._errors):
            for at in range(start, stop, AT_ONCE):
                part = range(at, min(at + AT_ONCE, stop))
                decoded = self._reader.get_batch(list(part)).asnumpy()
                kept |= {frame: decoded[frame - at].copy() for frame in part if frame in requested}
                self._next = part.stop
        return np.stack([kept[frame] for frame in frames])

    def _start(self, first: int) -> int:
        """Return where to start decoding: where the last read ended, or at a seek, whichever decodes less."""
        keys = [] if suffix_of(self.location) == ".avi" else self._reader.get_key_indices()  # avi: no times, so no exact seek
        start = decoding_start(keys, first)
        return self._next if start <= self._next <= first else start


def decoding_start(key_frames: Sequence[int], first: int, *, margin: int = 16) -> int:
    """Return where to start decoding so that frame `first` is right: the latest frame `margin` after its own key frame.

    Decord numbers key frames in the order of decoding. Where groups of pictures are open (mpeg4, mpeg2, x265 by default),
    frames shown before a key frame are decoded after it, at most 16 of them, and a seek to one of those gives another frame.
    """
    starts = [min(first, follower - 1) for follower in [*key_frames[1:], first + 1]]
    return max((start for key, start in zip(key_frames, starts, strict=False) if start - key >= margin), default=0)


class PyavFile:
    """A video file read by PyAV, forward from the first frame or from the end of the last read: slow, and never a wrong frame."""

    def __init__(self, location: FileLocation) -> None:
        self.location = location
        with naming(location, *_pyav_errors()), _opened(location) as container:
            stream = container.streams.video[0]
            require_pixels(stream.codec_context.width, stream.codec_context.height, label_of(location))
            declared = stream.frames or float(stream.average_rate or 0) * (container.duration or 0) / 1e6  # as decord computes it
            if not abs(declared) <= MAX_FRAMES:
                raise UserError(f"cannot read {label_of(location)}: it declares {declared:.3g} frames, more than {MAX_FRAMES:,}")
            self.num_frames = sum(packet.size > 0 for packet in container.demux(stream))  # what a header says may be wrong
            self.fps = float(stream.average_rate or stream.guessed_rate or 0)
        self._next, self._pictures = 0, _pictures(location)

    def read(self, frames: Sequence[int]) -> Frames:
        requested, kept = set(frames), {}
        if min(frames) < self._next:
            self._next, self._pictures = 0, _pictures(self.location)
        with naming(self.location, *_pyav_errors()):
            while self._next <= max(frames):
                picture = next(self._pictures, None)
                if picture is None:
                    raise UserError(f"cannot read {label_of(self.location)}: it ends after {self._next} frames")
                if self._next in requested:
                    upright = np.rot90(picture.to_ndarray(format="rgb24"), picture.rotation // 90)  # as decord gives it
                    kept[self._next] = np.ascontiguousarray(upright)
                self._next += 1
        if len({picture.shape for picture in kept.values()}) > 1:
            raise UserError(f"cannot read {label_of(self.location)}: its frames differ in size")
        return np.stack([kept[frame] for frame in frames])


def _pictures(location: FileLocation) -> Iterator:
    """Yield all frames in the order in which they are shown. As a method it would form a reference cycle with its reader."""
    with _opened(location) as container:
        yield from container.decode(video=0)


@contextmanager
def _opened(location: FileLocation) -> Iterator:
    import av

    with av.open(as_file(location), options=DEMUXER, metadata_errors="replace") as container:
        for stream in container.streams.video:
            stream.thread_type = "NONE"  # a forked process would have no such threads
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # a later frame may be larger than the header says
        yield container


def codec_of(location: FileLocation) -> str:
    """Return the codec of a video file's first stream, such as h264."""
    with naming(location, *_pyav_errors()), _opened(location) as container:
        return container.streams.video[0].codec_context.name


def _pyav_errors() -> tuple[type[Exception], ...]:
    import av

    # IndexError: no stream of video
    return av.FFmpegError, IndexError, ValueError, OSError, MemoryError, ArithmeticError, TypeError, AttributeError


LIBRARIES = (DecordFile, PyavFile)
