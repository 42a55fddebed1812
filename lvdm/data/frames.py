"""Frames between the file and the network: resize, crop, flip, and uint8 -> [-1, 1]. All functions are pure.

Letters: b batch, c channels, t frames, h w; frames are uint8 (t, h, w, c) at the edges, videos float (c, t, h, w) inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from lvdm.rules import integer
from lvdm.types import UserError


def as_size(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of 256 or [height, width]."""
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(map(integer(1, 2**16).holds, sides)):
        raise UserError(f"size is {size}, expected the side of a square or [height, width] in pixels")
    return sides[0], sides[1]


def covering_size(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest size of the same shape (rounded down) that covers `size`; for a square this sets the short side."""
    want_h, want_w = size
    if width * want_h >= height * want_w:  # wider than `size`: the height decides
        return want_h, max(want_w, width * want_h // height)
    return max(want_h, height * want_w // width), want_w


def resize_and_crop(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize until `size` is just covered, then crop the centre."""
    return crop(resize_to_cover(frames, size), size)


def resize_to_cover(frames: Tensor, box: tuple[int, int], *, antialias: bool = True) -> Tensor:
    """Resize until `box` is just covered (bilinear); frames that just cover it already are returned unchanged."""
    cover = covering_size(frames.shape[1], frames.shape[2], box)
    if frames.shape[1:3] == cover:
        return frames
    x = rearrange(frames, "t h w c -> t c h w")
    resized = F.interpolate(x, size=cover, mode="bilinear", antialias=antialias, align_corners=False)
    return rearrange(resized, "t c h w -> t h w c")


def crop(frames: Tensor, size: tuple[int, int], position: tuple[float, float] | None = None) -> Tensor:
    """Crop (t, h, w, c) to `size`: the middle, or at a position from (0, 0), top left, to (1, 1), bottom right.

    An odd pixel of the middle is rounded half to even, as torchvision does.
    """
    spare = [have - want for have, want in zip(frames.shape[1:3], size, strict=True)]
    if not any(spare):
        return frames
    if position is None:
        top, left = (round(room / 2) for room in spare)
    else:
        top, left = (min(int(part * (room + 1)), room) for part, room in zip(position, spare, strict=True))
    return frames[:, top : top + size[0], left : left + size[1]]


def random_position(rng: torch.Generator) -> tuple[float, float]:
    """Draw a position for `crop`, uniformly."""
    down, right = torch.rand(2, generator=rng, dtype=torch.float64).tolist()
    return down, right


def flip_half(frames: Tensor, rng: torch.Generator) -> Tensor:
    """Mirror the whole clip left to right with probability 1/2."""
    return frames.flip(2) if is_flipped(rng) else frames


def is_flipped(rng: torch.Generator) -> bool:
    """Draw whether a clip is mirrored, with probability 1/2."""
    return bool(torch.rand((), generator=rng) < 0.5)


def to_float(frames: Tensor) -> Tensor:
    """Convert uint8 (..., t, h, w, c) to float (..., c, t, h, w) in [-1, 1]."""
    assert frames.dtype == torch.uint8, f"frames of type {frames.dtype}"
    levels = rearrange(frames, "... t h w c -> ... c t h w")
    video = torch.empty(levels.shape).copy_(levels)  # converts and reorders in one pass, in a tenth of the time of two
    return video.div_(127.5).sub_(1)
