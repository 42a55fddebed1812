"""Which frames of a video a clip takes; pure, and the same for pixels and latents.

Letters: start first frame, num_frames frames of the clip, stride distance between two of them; `name` is for the error only.
"""

from __future__ import annotations

import torch

from lvdm.data.seeding import draw_integer
from lvdm.types import UserError


def clip_span(num_frames: int, stride: int = 1) -> int:
    """Frames from the first to the last of a clip, both counted."""
    assert num_frames >= 1 and stride >= 1, f"a clip of {num_frames} frames at stride {stride}"
    return (num_frames - 1) * stride + 1


def last_start(length: int, num_frames: int, stride: int = 1, *, name: str = "the video") -> int:
    """The last frame that a clip can start from; a video that is too short is the user's error."""
    need = clip_span(num_frames, stride)
    if length < need:
        what = f"{num_frames} frames at stride {stride} need {need}" if stride > 1 else f"clip needs {need} frames"
        raise UserError(f"{what}, {name} has {length}; lower num_frames or stride")
    return length - need


def clip_frames(start: int, num_frames: int, stride: int = 1) -> range:
    """start, start + stride, ...: num_frames of them."""
    return range(start, start + clip_span(num_frames, stride), stride)


def random_clip(length: int, num_frames: int, stride: int, rng: torch.Generator, *, name: str = "the video") -> range:
    """A clip whose start is uniform over all possible ones."""
    starts = last_start(length, num_frames, stride, name=name) + 1
    return clip_frames(draw_integer(starts, rng), num_frames, stride)


def spread_clip(length: int, num_frames: int, stride: int, part: int = 0, parts: int = 1, *, name: str = "the video") -> range:
    """Clip `part` of `parts` spread evenly over the video; the only one of one is centred."""
    assert 0 <= part < parts, f"part {part} of {parts}"
    last = last_start(length, num_frames, stride, name=name)
    return clip_frames((2 * part + 1) * last // (2 * parts), num_frames, stride)


def all_clips(length: int, num_frames: int, stride: int = 1, *, name: str = "the video") -> list[range]:
    """Every clip from frame 0 on, each one stride after the last frame of the one before; a shorter rest is dropped."""
    last = last_start(length, num_frames, stride, name=name)
    return [clip_frames(start, num_frames, stride) for start in range(0, last + 1, num_frames * stride)]


def count_clips(length: int, num_frames: int, stride: int = 1) -> int:
    """How many `all_clips` gives; 0 for a video that is too short."""
    return max(0, length - clip_span(num_frames, stride) + num_frames * stride) // (num_frames * stride)
