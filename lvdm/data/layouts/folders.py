"""Layouts of folders. A layout finds the videos of a data set below a root, with their captions and classes. See docs/data.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from lvdm.data.layouts.listing import METADATA, Video, find_videos, match_metadata, read_metadata, video_at
from lvdm.data.limits import as_text
from lvdm.types import UserError


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
        names = find_videos(root)
        if not names:
            raise UserError(f"no videos under {root}: expected mp4, avi, webm, mkv, mov or gif, or folders of jpg or png")
        path = self.metadata or root / METADATA
        if self.metadata is None and not path.exists():
            return [video_at(root, name) for name in names]
        descriptions = match_metadata([as_text(name) for name in names], read_metadata(path), str(path))
        return [video_at(root, name, description) for name, description in zip(names, descriptions, strict=True)]


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
