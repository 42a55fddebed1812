"""Layouts of folders. A layout finds the videos of a data set below a root, with their captions and classes. See docs/data.md."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from lvdm.data.layouts.listing import METADATA, Video, find_videos, match_metadata, read_metadata, video_at
from lvdm.data.limits import as_text
from lvdm.data.reading.locations import is_npz_video, is_video
from lvdm.types import UserError

logger = logging.getLogger(__name__)

LOSSLESS_FIRST = (".npz", "", ".mp4", ".mkv", ".mov", ".webm", ".avi", ".gif")  # "" is a folder of images


@runtime_checkable
class Layout(Protocol):
    """The protocol of a layout, which finds the videos of a data set; their names are relative to the root."""

    def find(self, root: Path) -> list[Video]: ...


class AnyVideos:
    """Every video file below the root and every folder that holds images and no video file, in sorted order, links followed.

    Args:
        metadata: JSONL of captions and classes; left out, `metadata.jsonl` in the root is read if it exists.
    """

    def __init__(self, metadata: str | Path | None = None) -> None:
        self.metadata = None if metadata is None else Path(metadata).expanduser()

    def find(self, root: Path) -> list[Video]:
        return self._described(root, find_videos(root))

    def _described(self, root: Path, names: list[str]) -> list[Video]:
        if not names:
            raise UserError(f"no videos under {root}: expected mp4, avi, webm, mkv, mov or gif, or folders of jpg or png")
        path = self.metadata or root / METADATA
        if self.metadata is None and not path.exists():
            return [video_at(root, name) for name in names]
        descriptions = match_metadata([as_text(name) for name in names], read_metadata(path), str(path))
        return [video_at(root, name, description) for name, description in zip(names, descriptions, strict=True)]


class SampledVideos(AnyVideos):
    """The videos of AnyVideos and npz files of lvdm, for evaluation: a video that is there in several formats is taken once.

    Formats are those of one name in one folder, such as 0.npz, 0.mp4 and the folder 0. The first of LOSSLESS_FIRST is taken, with
    the caption of any. Images next to videos, such as a contact sheet, are no video.
    """

    def find(self, root: Path) -> list[Video]:
        found = self._described(root, find_videos(root, is_file=lambda path: is_video(path.name) or is_npz_video(path)))
        formats: dict[str, list[tuple[int, Video]]] = {}
        for video in found:
            suffix = "" if (root / video.name).is_dir() else Path(video.name).suffix
            if video.name != "." or len(found) == 1:
                ranked = (LOSSLESS_FIRST.index(suffix.lower()), video)
                formats.setdefault(video.name.removesuffix(suffix), []).append(ranked)
        if len(formats) < len(found):
            logger.info("%d files below %s hold %d videos, some in several formats", len(found), root, len(formats))
        return [_one_of([video for _, video in sorted(ranked, key=lambda each: each[0])]) for ranked in formats.values()]


def _one_of(formats: list[Video]) -> Video:
    """Return the first of several files of one video, with the description of one that has a caption."""
    described = next((video.description for video in formats if video.description.caption), formats[0].description)
    return replace(formats[0], description=described)


class SkyTimelapse:
    """Sky Timelapse: `sky_train/<video>/<clip>/*.jpg` and `sky_test/...`, or `train/` and `test/`. Each clip is a video.

    Args:
        part: train or test, the published split.
    """

    def __init__(self, part: Literal["train", "test"]) -> None:
        self.part = part

    def find(self, root: Path) -> list[Video]:
        return _below(root, (f"sky_{self.part}", self.part), "SkyTimelapse")


class Taichi:
    """TaiChi-HD as its loader writes it: `train/` and `test/`, each of mp4 files or of folders of images.

    Args:
        part: train or test, the published split; all takes both.
    """

    def __init__(self, part: Literal["train", "test", "all"]) -> None:
        self.part = part

    def find(self, root: Path) -> list[Video]:
        parts = ("train", "test") if self.part == "all" else (self.part,)
        return sorted((video for part in parts for video in _below(root, (part,), "Taichi")), key=lambda video: video.name)


def _below(root: Path, folders: tuple[str, ...], layout: str) -> list[Video]:
    """Return all videos of the first of these folders that exists."""
    folder = next((folder for folder in folders if (root / folder).is_dir()), None)
    if folder is None:
        expected = " or ".join(f"{folder}/" for folder in folders)
        raise UserError(f"{root} has no {expected}, where {layout} has its videos; check the root, or see docs/data.md")
    return [replace(video, name=f"{folder}/{video.name}") for video in AnyVideos().find(root / folder)]
