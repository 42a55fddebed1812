"""Which frames of a video a clip takes: pure functions, the same for pixels and latents.

Letters: start first frame, num_frames frames of the clip, stride distance between two of them; `name` is for the error only.
"""

from __future__ import annotations

import torch

from lvdm.types import UserError, clip_span


def last_start(length: int, num_frames: int, stride: int = 1, *, name: str = "the video") -> int:
    """Return the last frame that a clip can start from; raise a UserError if the video is too short."""
    need = clip_span(num_frames, stride)
    if length < need:
        what = f"{num_frames} frames at stride {stride} need {need}" if stride > 1 else f"clip needs {need} frames"
        raise UserError(f"{what}, {name} has {length}; lower num_frames or stride")
    return length - need


def clip_frames(start: int, num_frames: int, stride: int = 1) -> range:
    """Return start, start + stride, ...: num_frames of them."""
    return range(start, start + clip_span(num_frames, stride), stride)


def random_clip(length: int, num_frames: int, stride: int, rng: torch.Generator, *, name: str = "the video") -> range:
    """Return a clip whose start is uniform over all possible ones."""
    starts = last_start(length, num_frames, stride, name=name) + 1
    return clip_frames(uniform_integer(starts, rng), num_frames, stride)


def spread_clip(length: int, num_frames: int, stride: int, part: int = 0, parts: int = 1, *, name: str = "the video") -> range:
    """Return clip `part` of `parts` that are spread evenly over the video; a single one is centred."""
    assert 0 <= part < parts, f"part {part} of {parts}"
    last = last_start(length, num_frames, stride, name=name)
    return clip_frames((2 * part + 1) * last // (2 * parts), num_frames, stride)


def all_clips(length: int, num_frames: int, stride: int = 1, *, name: str = "the video") -> list[range]:
    """Return all clips from frame 0 on, each one stride after the end of the previous one; a shorter rest is dropped."""
    last = last_start(length, num_frames, stride, name=name)
    return [clip_frames(start, num_frames, stride) for start in range(0, last + 1, num_frames * stride)]


def count_clips(length: int, num_frames: int, stride: int = 1) -> int:
    """Return the number of clips in `all_clips`; 0 for a video that is too short."""
    return max(0, length - clip_span(num_frames, stride) + num_frames * stride) // (num_frames * stride)


def uniform_integer(count: int, rng: torch.Generator) -> int:
    """Draw from 0 .. count - 1."""
    return int(torch.randint(count, (), generator=rng))
