"""Probing every video of a data set once: how many frames, at which rate and size, or why it cannot be used.

PyAV probes files in threads, never decord, so that worker processes forked later may use decord. A probe reads the headers of
all packets and decodes one frame. Results are cached (probe_cache.py); videos that could not be used are probed again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from tqdm import tqdm

from lvdm.data.layouts.listing import Video
from lvdm.data.limits import MAX_PIXELS
from lvdm.data.probing.probe_cache import ProbeCache, Stamp
from lvdm.data.reading.locations import FileLocation, Location, image_files, label_of, naming, stamp, suffix_of
from lvdm.data.reading.readers import PICTURE_ERRORS, GifFile, opened_image, read_npz, shown
from lvdm.data.reading.time_limit import within
from lvdm.data.reading.video_file import PyavFile
from lvdm.rules import integer, number, optional, row
from lvdm.types import UserError

THREADS = 4  # per core: probing mostly waits for the disk
SAVE_EVERY = 30.0  # seconds, so that an interrupted probe resumes where it was


COUNT = integer(1, 2**40)
ENTRY = row(COUNT, optional(number(0, 2**20)), COUNT, COUNT)  # of the cache: the facts of a video


@dataclass(frozen=True)
class VideoFacts:
    """The length, rate and size of a video, as its probe found them."""

    num_frames: int
    fps: float | None  # None for images, which do not state it
    height: int
    width: int


Result = TypeVar("Result")
Probed = VideoFacts | str  # a text says why the video cannot be used


def probe(videos: Sequence[Video], root: Path) -> list[Probed]:
    """Return the facts of each video as its reading options show it, from the cache if the file has not changed."""
    cache = ProbeCache(root)
    stamps = dict(zip((video.name for video in videos), _in_threads(_stamp, videos), strict=True))
    results = _cached(stamps, cache)
    if len(results) < len(videos):
        with cache.locked():
            cache.load()
            results = _cached(stamps, cache)
            results |= _probe_files([video for video in videos if video.name not in results], stamps, cache)
    return [_as_shown(results[video.name], video) for video in videos]


def _as_shown(result: Probed, video: Video) -> Probed:
    """Return the facts of the video as its reading options show it; the cache holds those of the file."""
    if isinstance(result, str):
        return result
    fps = video.reading.image_fps if result.fps is None else result.fps
    try:
        view = shown(SimpleNamespace(num_frames=result.num_frames, fps=fps), video.location, video.reading)
    except UserError as error:
        return str(error)
    return replace(result, num_frames=view.num_frames, fps=view.fps)


def _in_threads(work: Callable[[Video], Result], videos: Sequence[Video]) -> Iterator[Result]:
    with ThreadPoolExecutor(min(32, THREADS * (os.cpu_count() or 1))) as pool:
        yield from pool.map(work, videos)


def _stamp(video: Video) -> Stamp | str:
    if video.description.problem is not None:
        return f"cannot use {label_of(video.location)}: {video.description.problem}"
    try:
        return stamp(video.location)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"cannot read {label_of(video.location)}: {error.strerror}"


def _cached(stamps: Mapping[str, Stamp | str], cache: ProbeCache) -> dict[str, Probed]:
    """Return, by name, the results of all videos that need no probe."""
    results = {name: when if isinstance(when, str) else _checked(cache.get(name, when)) for name, when in stamps.items()}
    return {name: result for name, result in results.items() if result is not None}


def _checked(entry: Any) -> VideoFacts | None:
    """Return a cached entry as facts; None if it is something else, because the cache came with the data."""
    return VideoFacts(*entry) if ENTRY.holds(entry) and entry[2] * entry[3] <= MAX_PIXELS else None


def _probe_files(videos: Sequence[Video], stamps: Mapping[str, Stamp | str], cache: ProbeCache) -> dict[str, Probed]:
    results: dict[str, Probed] = {}
    probed, saved = _in_threads(probe_video, videos), time.monotonic()
    bar = tqdm(probed, desc="probing videos", total=len(videos), unit="video", delay=2.0, mininterval=1.0, leave=False)
    for video, result in zip(videos, bar, strict=True):
        results[video.name] = result
        stamp = stamps[video.name]
        if isinstance(result, VideoFacts) and not isinstance(stamp, str):
            cache.add(video.name, stamp, astuple(result))
        if time.monotonic() - saved > SAVE_EVERY:
            cache.save()
            saved = time.monotonic()
    cache.save()
    return results


def probe_video(video: Video) -> Probed:
    """Return the facts of one file, in its time limit, or why it cannot be used."""
    try:
        return within(video.reading.time_limit, lambda: probe_file(video.location), reading=label_of(video.location))
    except UserError as error:
        return str(error)


def probe_file(location: Location) -> VideoFacts:
    """Return the facts of the video at a location; raise a UserError if it cannot be used."""
    if isinstance(location, tuple):
        return _probe_images(location, location)
    if isinstance(location, Path) and location.is_dir():
        with naming(location, OSError):
            return _probe_images(location, image_files(location))
    if suffix_of(location) == ".npz" and isinstance(location, Path):
        return VideoFacts(len(frames := read_npz(location)), None, *frames.shape[1:3])
    facts = _probe_gif(location) if suffix_of(location) == ".gif" else _probe_video(location)
    if facts.num_frames == 0:
        raise UserError(f"cannot read {label_of(location)}: it has no frames")
    return facts


def _probe_images(location: Location, files: Sequence[FileLocation]) -> VideoFacts:
    if not files:
        raise UserError(f"cannot read {label_of(location)}: it has no images")
    width, height = _image_size(files[0])
    return VideoFacts(len(files), None, height, width)


def _probe_gif(location: FileLocation) -> VideoFacts:
    gif = GifFile(location)
    width, height = _image_size(location)
    return VideoFacts(gif.num_frames, gif.fps, height, width)


def _image_size(location: FileLocation) -> tuple[int, int]:
    """Return width and height, from the header."""
    with naming(location, *PICTURE_ERRORS), opened_image(location) as image:
        return image.size


def _probe_video(location: FileLocation) -> VideoFacts:
    video = PyavFile(location)
    _, height, width, _ = video.read([0]).shape
    return VideoFacts(video.num_frames, video.fps, height, width)
