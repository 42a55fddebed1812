"""Where clips come from: videos on disk, arrays, the data of a config. Models are a source of their own (model_source.py).

A source knows how long each of its videos is and reads frames of one; which frames are measured, the protocol says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np

from lvdm.config import check, instantiate, load_config
from lvdm.data import VideoData, VideoFolder
from lvdm.data.folders import Video, fingerprint
from lvdm.data.found import Found, find_usable
from lvdm.data.layouts import AnyVideos
from lvdm.data.places import stamp
from lvdm.data.readers import TIME_LIMIT, open_video
from lvdm.models.features.weights import sha256_of
from lvdm.types import UserError

IMAGE_FPS = 25.0  # of folders of images; no score asks for it
MAX_BROKEN = 0.2
PARTS = {"train": ("train",), "test": ("test",), "train+test": ("train", "test")}  # folders of a split


ANY = "a folder of videos, an npy or npz file, the YAML of a data set, or a model file"


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
    """Videos found on disk, read as they are."""

    name: str
    parts: tuple[Found, ...]
    roots: tuple[str, ...]  # name of each part within the whole, "" for one
    time_limit: float = TIME_LIMIT

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
        return [facts.frames for part in self.parts for facts in part.facts]

    def read(self, video: int, frames: range) -> np.ndarray:
        place = self.videos[video].place
        return open_video(place, image_fps=IMAGE_FPS, time_limit=self.time_limit).read(frames)

    def fingerprint(self) -> str:
        return fingerprint(self.videos, self.names)

    def stamps(self) -> str:
        told = repr([(name, stamp(video.place)) for name, video in zip(self.names, self.videos, strict=True)])
        return hashlib.sha256(told.encode()).hexdigest()


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
        raise UserError(
            f"there is no {path}; give a folder of videos, an npy or npz file, the YAML of a data set, or a model file"
        )
    if not path.is_dir():
        raise UserError(
            f"{path} is no source; give a folder of videos, an npy or npz file, the YAML of a data set, or a model file"
        )
    folders = [part for part in PARTS[split] if (path / part).is_dir()]
    if not folders:
        return VideoSource(path.name, (_found(path),), ("",))
    if len(folders) < len(PARTS[split]):
        raise UserError(f"{path} has {folders[0]} alone, and the protocol reads {split}; add the other, or give --set split=...")
    return VideoSource(f"{path.name} ({split})", tuple(_found(path / part) for part in folders), tuple(folders))


def _found(root: Path) -> Found:
    return find_usable(root, AnyVideos(), None, num_frames=1, stride=1, max_broken=MAX_BROKEN, time_limit=TIME_LIMIT)


def _of_config(path: Path, *, split: str, allow: Sequence[str]) -> VideoSource:
    """The videos that `data.params.train` and `.val` of a training config read, and nothing else of it."""
    node = load_config([str(path)], []).get("data")
    if node is None:
        raise UserError(f"{path} has no `data`; give a config that training takes, or the folder itself")
    check({"data": node}, schema=_DataConfig, allow=allow)
    data: VideoData = instantiate(node, allow=allow)
    wanted = {"train": data.train, "test": data.val}
    parts = {part: wanted[part] for part in PARTS[split]}
    for part, videos in parts.items():
        if not isinstance(videos, VideoFolder):
            key = {"train": "train", "test": "val"}[part]
            raise UserError(f"data.params.{key} of {path} is {type(videos).__name__}, expected a VideoFolder; give the videos")
    found = tuple(_usable(videos) for videos in parts.values())
    return VideoSource(f"{path.name} ({split})", found, tuple(parts) if len(parts) > 1 else ("",))


@dataclass
class _DataConfig:
    data: VideoData


def _usable(videos: VideoFolder) -> Found:
    """All that it could read, be it too short for its own clips."""
    limits = {"max_broken": videos.max_broken, "time_limit": videos.time_limit}
    return find_usable(videos.root, videos.layout, videos.split, num_frames=1, stride=1, **limits)


def _array(path: Path) -> np.ndarray:
    """Mapped into memory where the file lets us."""
    try:
        loaded: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            names = loaded.files
            if len(names) != 1:
                raise UserError(f"{path} holds {', '.join(names) or 'nothing'}; expected one array of videos, such as arr_0")
            loaded = loaded[names[0]]
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"cannot read {path}: {error}; expected uint8 (n, t, h, w, 3)") from error
    if loaded.dtype != np.uint8 or loaded.ndim != 5 or loaded.shape[-1] != 3 or 0 in loaded.shape:
        raise UserError(f"{path} holds {loaded.dtype} {loaded.shape}; expected uint8 (n, t, h, w, 3)")
    return loaded
