"""Looking at every video of a data set once: how many frames, at which rate and size, or why it cannot be used.

Files are looked at by PyAV in threads, never by decord, so that worker processes forked later may use decord. A look reads
the headers of all packets and decodes one frame. What is found is kept (see notebook.py); failures are looked at again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from lvdm.data.layouts.listing import Video
from lvdm.data.limits import MAX_PIXELS
from lvdm.data.probing.probe_cache import Notebook, Stamp
from lvdm.data.reading.locations import Place, Source, image_files, label_of, stamp, suffix_of
from lvdm.data.reading.readers import PICTURE_ERRORS, GifFile, naming, opened_image
from lvdm.data.reading.time_limit import within
from lvdm.types import UserError

THREADS = 4  # for each core: looking at a file is mostly waiting for the disk
SAVE_EVERY = 30.0  # seconds, so that a long look that is interrupted goes on where it was


@dataclass(frozen=True)
class VideoFacts:
    """What one look at a video shows."""

    frames: int
    fps: float | None  # images do not say
    height: int
    width: int


Result = TypeVar("Result")
Look = VideoFacts | str  # or why the video cannot be used


def scan(videos: Sequence[Video], root: Path, *, time_limit: float) -> list[Look]:
    """A look at each video, taken from the notebook where the file is as it was then."""
    notebook = Notebook(root)
    stamps = dict(zip((video.name for video in videos), _in_threads(_stamp, videos), strict=True))
    looks = _known(stamps, notebook)
    if len(looks) < len(videos):
        with notebook.held():
            notebook.load()
            looks = _known(stamps, notebook)
            looks |= _look_at_all([video for video in videos if video.name not in looks], stamps, notebook, time_limit)
    return [looks[video.name] for video in videos]


def _in_threads(work: Callable[[Video], Result], videos: Sequence[Video]) -> Iterator[Result]:
    with ThreadPoolExecutor(min(32, THREADS * (os.cpu_count() or 1))) as pool:
        yield from pool.map(work, videos)


def _stamp(video: Video) -> Stamp | str:
    if video.known.problem is not None:
        return f"cannot use {label_of(video.place)}: {video.known.problem}"
    try:
        return stamp(video.place)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"cannot read {label_of(video.place)}: {error.strerror}"


def _known(stamps: Mapping[str, Stamp | str], notebook: Notebook) -> dict[str, Look]:
    """By name of the video, what needs no look."""
    noted = {name: when if isinstance(when, str) else notebook.get(name, when) for name, when in stamps.items()}
    looks = {name: look if isinstance(look, str) and look == stamps[name] else _facts(look) for name, look in noted.items()}
    return {name: look for name, look in looks.items() if look is not None}


def _facts(noted: object) -> VideoFacts | None:
    """What was noted; None if it is no look, because the file of notes came with the data and may hold anything."""
    if not isinstance(noted, list) or len(noted) != 4:
        return None
    frames, fps, *sides = noted
    is_count = all(type(count) is int and 0 < count < 2**40 for count in (frames, *sides))
    is_rate = fps is None or (type(fps) in (int, float) and 0 <= fps < 2**20)
    return VideoFacts(frames, fps, *sides) if is_count and is_rate and sides[0] * sides[1] <= MAX_PIXELS else None


def _look_at_all(
    videos: Sequence[Video], stamps: Mapping[str, Stamp | str], notebook: Notebook, time_limit: float
) -> dict[str, Look]:
    looks: dict[str, Look] = {}
    found, saved = _in_threads(lambda video: _patiently(video.place, time_limit), videos), time.monotonic()
    bar = tqdm(found, desc="looking at videos", total=len(videos), unit="video", delay=2.0, mininterval=1.0, leave=False)
    for video, look in zip(videos, bar, strict=True):
        looks[video.name] = look
        if isinstance(look, VideoFacts):
            notebook.add(video.name, stamps[video.name], astuple(look))
        if time.monotonic() - saved > SAVE_EVERY:
            notebook.save()
            saved = time.monotonic()
    notebook.save()
    return looks


def _patiently(place: Place, time_limit: float) -> Look:
    try:
        return within(time_limit, lambda: look_at(place), reading=label_of(place))
    except UserError as error:
        return str(error)


def look_at(place: Place) -> VideoFacts:
    """One look; UserError when the video cannot be used."""
    if isinstance(place, tuple):
        return _look_at_images(place, place)
    if isinstance(place, Path) and place.is_dir():
        with naming(place, OSError):
            return _look_at_images(place, image_files(place))
    facts = _look_at_gif(place) if suffix_of(place) == ".gif" else _look_at_film(place)
    if facts.frames == 0:
        raise UserError(f"cannot read {label_of(place)}: it has no frames")
    return facts


def _look_at_images(place: Place, files: Sequence[Source]) -> VideoFacts:
    if not files:
        raise UserError(f"cannot read {label_of(place)}: it has no images")
    width, height = _image_size(files[0])
    return VideoFacts(len(files), None, height, width)


def _look_at_gif(place: Source) -> VideoFacts:
    gif = GifFile(place)
    width, height = _image_size(place)
    return VideoFacts(gif.num_frames, gif.fps, height, width)


def _image_size(source: Source) -> tuple[int, int]:
    """Width and height, from the header."""
    with naming(source, *PICTURE_ERRORS), opened_image(source) as image:
        return image.size


def _look_at_film(place: Source) -> VideoFacts:
    from lvdm.data.reading.video_file import PyavFile  # here: cached latents are trained on without it

    film = PyavFile(place)
    _, height, width, _ = film.read([0]).shape
    return VideoFacts(film.num_frames, film.fps, height, width)
