"""Where clips come from: videos on disk, arrays, the data of a config. Models are a source of their own (model_source.py).

A source knows how long each of its videos is and reads frames of one; which frames are measured, the protocol says.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np

from lvdm.config import check, instantiate, load_config
from lvdm.data import VideoData, VideoFolder
from lvdm.data.layouts.folders import AnyVideos
from lvdm.data.layouts.listing import Video, fingerprint
from lvdm.data.probing.usable import UsableVideos, find_usable
from lvdm.data.reading.locations import Location, image_files, stamp
from lvdm.data.reading.options import ReadingOptions
from lvdm.models.features.arrays import check_arrays
from lvdm.models.features.weights import sha256_of
from lvdm.types import UserError

MAX_BROKEN = 0.2
PARTS = {"train": ("train",), "test": ("test",), "train+test": ("train", "test")}  # folders of a split
ANY = "a folder of videos, an npy or npz file, or the YAML of a data set; a model file is one for --fake alone"
SHAPE = "uint8 (n, t, h, w, 3)"
DAMAGE = (OSError, ValueError, EOFError, BadZipFile, zlib.error, RuntimeError, MemoryError, OverflowError)  # of what numpy reads


class Source(Protocol):
    """Videos, each by its number; `names` are relative, `fingerprint` is of their content as far as names and sizes tell it."""

    kind: str  # "videos" or "array", as results call it
    name: str
    names: Sequence[str]
    lengths: Sequence[int]

    def read(self, video: int, frames: range) -> np.ndarray: ...  # uint8 (t, h, w, 3)

    def fingerprint(self) -> str: ...

    def stamps(self) -> str: ...  # changes when a file is written anew: what was measured before is measured again


@dataclass(frozen=True)
class VideoSource:
    """Videos found on disk, each read by its own options."""

    name: str
    parts: tuple[UsableVideos, ...]
    roots: tuple[str, ...]  # name of each part within the whole, "" for one

    kind = "videos"

    @cached_property
    def videos(self) -> list[Video]:
        return [video for part in self.parts for video in part.videos]

    @cached_property
    def names(self) -> list[str]:
        named = zip(self.roots, self.parts, strict=True)
        return [f"{root}/{video.name}" if root else video.name for root, part in named for video in part.videos]

    @cached_property
    def lengths(self) -> list[int]:
        return [facts.num_frames for part in self.parts for facts in part.facts]

    def read(self, video: int, frames: range) -> np.ndarray:
        return self.videos[video].open().read(frames)

    def fingerprint(self) -> str:
        return fingerprint(self.videos, self.names)

    def stamps(self) -> str:
        told = repr([(name, _stamps(video.location)) for name, video in zip(self.names, self.videos, strict=True)])
        return hashlib.sha256(told.encode()).hexdigest()


def _stamps(location: Location) -> list[list[int]]:
    """A folder's own stamp does not change when one of its images is written anew in its place."""
    return [_stamp(file) for file in (image_files(location) if isinstance(location, Path) and location.is_dir() else [location])]


def _stamp(location: Location) -> list[int]:
    """Nothing of a file that cannot be asked, such as an image that is a link to nowhere: reading it tells."""
    try:
        return stamp(location)
    except (OSError, UserError):
        return []


@dataclass(frozen=True)
class ArraySource:
    """uint8 (n, t, h, w, 3) of an npy or npz file."""

    path: Path
    videos: np.ndarray

    kind = "array"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def names(self) -> list[str]:
        return [f"{self.path.name}[{video}]" for video in range(len(self.videos))]

    @property
    def lengths(self) -> list[int]:
        return [self.videos.shape[1]] * len(self.videos)

    def read(self, video: int, frames: range) -> np.ndarray:
        return np.array(self.videos[video, frames.start : frames.stop : frames.step])

    def fingerprint(self) -> str:
        return sha256_of(self.path)

    def stamps(self) -> str:
        return self.fingerprint()


def open_source(path: Path, *, split: str, allow: Sequence[str] = ()) -> Source:
    """A folder of videos or of folders of images, an npy or npz file, or the YAML of a data set; `split` is the protocol's.

    A folder that holds `train` or `test` is read by its split; any other one is read whole.
    """
    if path.suffix in (".npy", ".npz"):
        return ArraySource(path, _array(path))
    if path.suffix in (".yaml", ".yml"):
        return _of_config(path, split=split, allow=allow)
    if not path.exists():
        raise UserError(f"there is no {path}; give {ANY}")
    if not path.is_dir():
        raise UserError(f"{path} is no source; give {ANY}")
    if not any((path / part).is_dir() for part in PARTS["train+test"]):
        return VideoSource(path.name, (_found(path),), ("",))
    missing = [part for part in PARTS[split] if not (path / part).is_dir()]
    if missing:
        raise UserError(f"{path} has no {missing[0]}, and the protocol reads {split}; add that folder, or give --set split=...")
    return VideoSource(f"{path.name} ({split})", tuple(_found(path / part) for part in PARTS[split]), PARTS[split])


def _found(root: Path) -> UsableVideos:
    options = {"max_broken": MAX_BROKEN, "reading": ReadingOptions()}
    return find_usable(root, AnyVideos(), None, num_frames=1, stride=1, **options)


def _of_config(path: Path, *, split: str, allow: Sequence[str]) -> VideoSource:
    """The videos that `data.params.train` and `.val` of a training config read, and nothing else of it."""
    node = load_config([str(path)], []).get("data")
    if node is None:
        raise UserError(f"{path} has no `data`; give a config that training takes, or the folder itself")
    try:
        check({"data": node}, schema=_DataConfig, allow=allow)
        data: VideoData = instantiate(node, allow=allow)
    except UserError as error:
        raise UserError(f"{path} cannot be read as data: {error}") from error
    wanted = {"train": data.train, "test": data.val}
    parts = {part: wanted[part] for part in PARTS[split]}
    for part, videos in parts.items():
        if not isinstance(videos, VideoFolder):
            key = {"train": "train", "test": "val"}[part]
            raise UserError(f"data.params.{key} of {path} is {type(videos).__name__}, expected a VideoFolder; give the videos")
    return videos_of(f"{path.name} ({split})", parts)


def videos_of(name: str, parts: Mapping[str, VideoFolder]) -> VideoSource:
    """The videos of data sets, whole and as they lie on the disk, whatever clips the data sets cut from them."""
    found = tuple(_usable(videos) for videos in parts.values())
    return VideoSource(name, found, tuple(parts) if len(parts) > 1 else ("",))


@dataclass
class _DataConfig:
    data: VideoData


def _usable(videos: VideoFolder) -> UsableVideos:
    """All that it could read, be it too short for its own clips."""
    options = {"max_broken": videos.max_broken, "reading": videos.reading}
    return find_usable(videos.root, videos.layout, videos.split, num_frames=1, stride=1, **options)


def _array(path: Path) -> np.ndarray:
    """Mapped into memory where the file lets us."""
    try:
        check_arrays(path)
        loaded: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        names = [] if isinstance(loaded, np.ndarray) else loaded.files
        found = loaded[names[0]] if len(names) == 1 else loaded
    except DAMAGE as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"cannot read {path} ({reason}): it is cut short or another file; expected {SHAPE}") from error
    if not isinstance(found, np.ndarray):
        held = ", ".join(names) or "nothing"
        raise UserError(f"{path} holds {held}, and one array was expected: {SHAPE}, under any name such as arr_0")
    if found.dtype != np.uint8 or found.ndim != 5 or found.shape[-1] != 3 or 0 in found.shape:
        raise UserError(f"{path} holds {found.dtype} {found.shape}; expected {SHAPE}")
    return found
