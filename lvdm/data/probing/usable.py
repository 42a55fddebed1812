"""The videos of a data set that can be used: those that layout and split list, without the broken and the too short ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lvdm.data.clips import last_start
from lvdm.data.layouts.folders import Layout
from lvdm.data.layouts.listing import Video, require_folder
from lvdm.data.layouts.splits import Split
from lvdm.data.probing.broken import BrokenVideos
from lvdm.data.probing.probe import Probed, VideoFacts, probe
from lvdm.data.reading.locations import label_of
from lvdm.data.reading.options import ReadingOptions
from lvdm.types import UserError


@dataclass(frozen=True)
class UsableVideos:
    """The usable videos of a data set, their facts, and the broken ones; `listed` are all."""

    listed: list[Video]
    videos: list[Video]
    facts: list[VideoFacts]
    broken: BrokenVideos


def find_usable(
    root: Path,
    layout: Layout,
    split: Split | None,
    *,
    num_frames: int,
    stride: int,
    max_broken: float,
    reading: ReadingOptions,
) -> UsableVideos:
    """Return the videos below root that hold a clip; raise a UserError if there are none or too many are broken."""
    require_folder(root, "the folder of videos")
    listed = layout.find(root)
    if split is not None:
        listed = _chosen(listed, split, root)
    listed = [replace(video, reading=reading) for video in listed]
    probed = [_long_enough(video, result, num_frames, stride) for video, result in zip(listed, probe(listed, root), strict=True)]
    broken = BrokenVideos(len(listed), max_broken, root=str(root))
    broken.add({video.name: result for video, result in zip(listed, probed, strict=True) if isinstance(result, str)})
    usable = [(video, facts) for video, facts in zip(listed, probed, strict=True) if isinstance(facts, VideoFacts)]
    return UsableVideos(listed, [video for video, _ in usable], [facts for _, facts in usable], broken)


def _chosen(videos: list[Video], split: Split, root: Path) -> list[Video]:
    names = set(split.choose([video.name for video in videos]))
    if not names:
        raise UserError(f"the split leaves none of the {len(videos)} videos of {root}; widen it")
    return [video for video in videos if video.name in names]


def _long_enough(video: Video, result: Probed, num_frames: int, stride: int) -> Probed:
    """Return the result; for a video that is too short for a clip, the reason."""
    if isinstance(result, VideoFacts):
        try:
            last_start(result.num_frames, num_frames, stride, name=label_of(video.location))
        except UserError as error:
            return str(error)
    return result
