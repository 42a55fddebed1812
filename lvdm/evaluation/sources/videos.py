"""Where clips come from: videos on disk, arrays, the data of a config. Models are a source of their own (model.py).

A source knows how long each of its videos is and reads frames of one. The protocol says which frames are measured.
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
import torch
from torch import Tensor

from lvdm.arrays import check_arrays
from lvdm.config import check, instantiate, load_config
from lvdm.data import VideoData, VideoFolder
from lvdm.data.layouts.folders import SampledVideos
from lvdm.data.layouts.listing import Video, fingerprint
from lvdm.data.probing.usable import UsableVideos, find_usable
from lvdm.data.reading.locations import Location, image_files, stamp
from lvdm.data.reading.options import ReadingOptions
from lvdm.evaluation.protocols.pixels import to_levels
from lvdm.evaluation.sources.splits import PARTS, WHOLE, check_split, parts_below, split_of
from lvdm.models.features.weights import sha256_of
from lvdm.types import UserError

MAX_BROKEN = 0.2
ANY = "a folder of videos, an npy or npz file, or the YAML of a data set; only generated videos may come from a model file"
SHAPE = "uint8 (n, t, h, w, 3)"
DAMAGE = (OSError, ValueError, EOFError, BadZipFile, zlib.error, RuntimeError, MemoryError, OverflowError)  # of what numpy reads


class Source(Protocol):
    """Videos, each by its number."""

    @property
    def kind(self) -> str:
        """Return "videos" or "array", as results call it."""

    @property
    def split(self) -> str | None:
        """Return the part of a data set that these are, or None for arrays."""

    @property
    def name(self) -> str:
        """Return what results call the whole."""

    @property
    def names(self) -> Sequence[str]:
        """Return the name of each video, relative to the whole."""

    @property
    def lengths(self) -> Sequence[int]:
        """Return the number of frames of each video."""

    def read(self, video: int, frames: range) -> np.ndarray:
        """Return frames of a video, uint8 (t, h, w, 3)."""

    def fingerprint(self) -> str:
        """Return a hash of the videos' content, as far as names and sizes show it."""

    def stamps(self) -> str:
        """Return what changes when a file is written again: its cached features are stale then."""


@dataclass(frozen=True)
class VideoSource:
    """Videos found on disk, each read by its own options."""

    name: str
    parts: tuple[UsableVideos, ...]
    roots: tuple[str, ...]  # name of each part within the whole, "" for one
    split: str = WHOLE  # what part of a data set these are

    kind = "videos"

    @cached_property
    def videos(self) -> list[Video]:
        """Return the usable videos of all parts."""
        return [video for part in self.parts for video in part.videos]

    @cached_property
    def names(self) -> list[str]:
        """Return the videos' paths below the folder, behind the name of their part."""
        named = zip(self.roots, self.parts, strict=True)
        return [f"{root}/{video.name}" if root else video.name for root, part in named for video in part.videos]

    @cached_property
    def lengths(self) -> list[int]:
        """Return the number of frames of each video, as its probe found it."""
        return [facts.num_frames for part in self.parts for facts in part.facts]

    def read(self, video: int, frames: range) -> np.ndarray:
        """Return frames of a video, uint8 (t, h, w, 3)."""
        return self.videos[video].open().read(frames)

    def fingerprint(self) -> str:
        """Return the hash of all names, sizes and reading options."""
        return fingerprint(self.videos, self.names)

    def stamps(self) -> str:
        """Return the hash of the sizes and times of all files."""
        stamps = repr([(name, _stamps(video.location)) for name, video in zip(self.names, self.videos, strict=True)])
        return hashlib.sha256(stamps.encode()).hexdigest()


def _stamps(location: Location) -> list[list[int]]:
    """Return the stamps of a video's files; a folder's own does not change when one of its images is written again."""
    return [_stamp(file) for file in (image_files(location) if isinstance(location, Path) and location.is_dir() else [location])]


def _stamp(location: Location) -> list[int]:
    """Return the stamp of a file, or nothing if it has none, such as a link to nowhere: reading it will say so."""
    try:
        return stamp(location)
    except (OSError, UserError):
        return []


@dataclass(frozen=True)
class ArraySource:
    """Levels (n, t, h, w, 3), in memory or of an npy or npz file: uint8, or float32 if the protocol does not round."""

    videos: np.ndarray
    path: Path | None = None

    kind = "array"
    split = None

    @property
    def name(self) -> str:
        """Return the name of the file, if there is one."""
        return "array" if self.path is None else self.path.name

    @property
    def names(self) -> list[str]:
        """Return the name and number of each video."""
        return [f"{self.name}[{video}]" for video in range(len(self.videos))]

    @property
    def lengths(self) -> list[int]:
        """Return the number of frames, which all videos share."""
        return [self.videos.shape[1]] * len(self.videos)

    def read(self, video: int, frames: range) -> np.ndarray:
        """Return a copy of frames of a video, (t, h, w, 3)."""
        return np.array(self.videos[video, frames.start : frames.stop : frames.step])

    def fingerprint(self) -> str:
        """Return the hash of the file, or of the array in memory."""
        return self._sha256 if self.path is None else sha256_of(self.path)

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256(str(self.videos.shape).encode())
        for video in self.videos:
            digest.update(np.ascontiguousarray(video).data)
        return digest.hexdigest()

    def stamps(self) -> str:
        """Return the hash of the content: an array is read whole anyway."""
        return self.fingerprint()


def array_source(videos: np.ndarray | Tensor, *, quantise: str) -> ArraySource:
    """Return the source of videos in memory: uint8 (n, t, h, w, 3), or floats in [-1, 1] (n, 3, t, h, w), which become levels.

    Floats without one below 0 are refused, because they are almost surely in [0, 1].
    """
    found = np.asarray(videos.detach().float().cpu() if isinstance(videos, Tensor) and videos.is_floating_point() else videos)
    if np.issubdtype(found.dtype, np.floating) and found.ndim == 5 and found.shape[1] == 3 and found.size:
        low, high = float(found.min()), float(found.max())
        if not -1.01 <= low <= high <= 1.01:  # NaN fails too
            raise UserError(f"videos are floats from {low:g} to {high:g}; expected -1 to 1")
        if low >= 0 and high <= 1.01:
            raise UserError(f"videos are floats from {low:g} to {high:g}, as in [0, 1]; expected [-1, 1]: give 2 * videos - 1")
        levels = to_levels(torch.from_numpy(np.array(found, np.float32)), quantise)
        return ArraySource(levels.permute(0, 2, 3, 4, 1).numpy())
    if found.dtype != np.uint8 or found.ndim != 5 or found.shape[-1] != 3 or 0 in found.shape:
        raise UserError(f"videos are {found.dtype} {found.shape}; expected {SHAPE}, or floats in [-1, 1] (n, 3, t, h, w)")
    return ArraySource(found)


def open_source(
    videos: str | Path | np.ndarray | Tensor, *, split: str, quantise: str = "truncate", allow: Sequence[str] = ()
) -> Source:
    """Return the source of an array, a folder of videos or of folders of images, an npy or npz file, or the YAML of a data set.

    A folder that holds train and test parts is read by the split (see `parts_below`); any other one is read whole.

    Args:
        split: train, test or train+test.
        quantise: how floats become levels, the protocol's.
        allow: packages of the user's whose classes a YAML may name.
    """
    check_split(split)
    if not isinstance(videos, str | Path):
        return array_source(videos, quantise=quantise)
    path = Path(videos)
    if path.suffix in (".npy", ".npz"):
        return ArraySource(_array(path), path)
    if path.suffix in (".yaml", ".yml"):
        return _of_config(path, split=split, allow=allow)
    if not path.exists():
        raise UserError(f"there is no {path}; give {ANY}")
    if not path.is_dir():
        raise UserError(f"{path} is no source; give {ANY}")
    below = parts_below(path)
    if not below:
        return VideoSource(path.name, (_found(path),), ("",), split_of(path))
    missing = [part for part in PARTS[split] if part not in below]
    if missing:
        raise UserError(f"{path} has no {missing[0]}, and the split is {split}; add that folder, or change the split")
    parts = tuple(_found(below[part]) for part in PARTS[split])
    return VideoSource(f"{path.name} ({split})", parts, PARTS[split], split)


def require_split(source: Source, split: str) -> None:
    """Refuse videos that are not the split that was named; arrays have no splits, and one flat folder may be all of it."""
    is_flat = (source.split, split) == (WHOLE, "train+test")
    if source.split not in (None, split) and not is_flat:
        what = "a folder without parts" if source.split == WHOLE else f"the {source.split} part alone"
        how = "leave the split out to measure all of it, or give a folder of parts"
        raise UserError(f"the split is {split}, and {source.name} is {what}; {how}")


def _found(root: Path) -> UsableVideos:
    return find_usable(root, SampledVideos(), None, num_frames=1, stride=1, max_broken=MAX_BROKEN, reading=ReadingOptions())


def _of_config(path: Path, *, split: str, allow: Sequence[str]) -> VideoSource:
    """Return the videos that `data.params.train` and `.val` of a training config read, and nothing else of it."""
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
    """Return the videos of the parts of a data set, whole and as they are on disk, whatever clips are cut from them."""
    found = tuple(_usable(videos) for videos in parts.values())
    return VideoSource(name, found, tuple(parts) if len(parts) > 1 else ("",), "+".join(parts))


@dataclass
class _DataConfig:
    data: VideoData


def _usable(videos: VideoFolder) -> UsableVideos:
    """Return all videos of a data set, even if they are too short for its own clips."""
    options = {"max_broken": videos.max_broken, "reading": videos.reading}
    return find_usable(videos.root, videos.layout, videos.split, num_frames=1, stride=1, **options)


def _array(path: Path) -> np.ndarray:
    """Return the array of a file, mapped into memory if the file allows it."""
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
        raise UserError(f"{path} holds {held}; expected one array, {SHAPE}, under any name such as arr_0")
    if found.dtype != np.uint8 or found.ndim not in (4, 5) or found.shape[-1] != 3 or 0 in found.shape:
        raise UserError(f"{path} holds {found.dtype} {found.shape}; expected {SHAPE}, or (t, h, w, 3) of one video")
    return found[None] if found.ndim == 4 else found
