"""What a data set's root holds: its videos by layout and split, those that can be used, what one look at each has shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lvdm.data.clips import last_start
from lvdm.data.layouts.folders import Layout
from lvdm.data.layouts.listing import Video, require_folder
from lvdm.data.layouts.splits import Split
from lvdm.data.probing.broken import BrokenCount
from lvdm.data.probing.probe import Look, VideoFacts, scan
from lvdm.data.reading.locations import label_of
from lvdm.types import UserError


@dataclass(frozen=True)
class Found:
    """The videos that can be used, with their facts, among all."""

    everything: list[Video]
    videos: list[Video]
    facts: list[VideoFacts]
    broken: BrokenCount


def find_usable(
    root: Path, layout: Layout, split: Split | None, *, num_frames: int, stride: int, max_broken: float, time_limit: float
) -> Found:
    """UserError where nothing or too little can be used; a video that is too short for a clip cannot."""
    require_folder(root, "the folder of videos")
    videos = layout.find(root)
    if split is not None:
        videos = chosen(videos, split, root)
    looks = scan(videos, root, time_limit=time_limit)
    looks = [_long_enough(video, look, num_frames, stride) for video, look in zip(videos, looks, strict=True)]
    broken = BrokenCount(len(videos), max_broken, root=str(root))
    broken.add({video.name: look for video, look in zip(videos, looks, strict=True) if isinstance(look, str)})
    usable = [(video, look) for video, look in zip(videos, looks, strict=True) if isinstance(look, VideoFacts)]
    return Found(videos, [video for video, _ in usable], [facts for _, facts in usable], broken)


def chosen(videos: list[Video], split: Split, root: Path) -> list[Video]:
    names = set(split.choose([video.name for video in videos]))
    if not names:
        raise UserError(f"the split leaves none of the {len(videos)} videos of {root}; widen it")
    return [video for video in videos if video.name in names]


def _long_enough(video: Video, look: Look, num_frames: int, stride: int) -> Look:
    if isinstance(look, VideoFacts):
        try:
            last_start(look.frames, num_frames, stride, name=label_of(video.place))
        except UserError as error:
            return str(error)
    return look
