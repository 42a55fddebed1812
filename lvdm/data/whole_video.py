"""One video, whole: its frames as an array, for notebooks and for the start of a long video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lvdm.data.frames import as_size, resize_and_crop
from lvdm.data.layouts.listing import Video
from lvdm.data.limits import MAX_READ
from lvdm.data.probing.probe import VideoFacts, probe_video
from lvdm.data.reading.options import Frames, ReadingOptions
from lvdm.rules import PATH, integer, optional, require
from lvdm.types import UserError


def read_video(
    path: str | Path,
    *,
    frames: int | None = None,
    at_most: int | None = None,
    size: int | Sequence[int] | None = None,
    reading: ReadingOptions = ReadingOptions(),  # noqa: B008 (frozen)
) -> Frames:
    """Return the frames of a video file, of an npz as lvdm writes it or of a folder of images, uint8 (t, h, w, 3).

        lvdm.read_video("clip.mp4", frames=16, size=64).shape  # (16, 64, 64, 3)

    Args:
        frames: the first so many, which the video must have; None reads all.
        at_most: no more than so many.
        size: of a side, or (height, width): frames are resized to cover it, then cropped. None keeps their size.
        reading: how frames are read, such as ReadingOptions(fps=8) to resample.
    """
    require(PATH, path=path)
    require(optional(integer(1)), frames=frames, at_most=at_most)
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no {path}; give a video file, an npz or a folder of images")
    video = Video(path.name, path, reading=reading)
    if not isinstance(facts := probe_video(video), VideoFacts):
        raise UserError(facts)
    reader = video.open()
    count = reader.num_frames if frames is None else frames
    if not 1 <= count <= reader.num_frames:
        raise UserError(f"{count} frames were requested, and {path} has {reader.num_frames}")
    count = count if at_most is None else min(count, at_most)
    at_once = max(1, MAX_READ // (3 * facts.height * facts.width))
    pieces = [torch.from_numpy(reader.read(range(first, min(first + at_once, count)))) for first in range(0, count, at_once)]
    if size is not None:
        pieces = [resize_and_crop(piece, as_size(size)) for piece in pieces]
    return np.ascontiguousarray(torch.cat(pieces).numpy())
