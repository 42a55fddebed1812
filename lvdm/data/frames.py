"""Frames between the file and the network: resize, crop, flip, and uint8 -> [-1, 1]; pure.

Letters: b batch, c channels, t frames, h w; frames are uint8 (t, h, w, c) at the edges, videos float (c, t, h, w) inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from lvdm.types import UserError


def as_size(size: int | Sequence[int]) -> tuple[int, int]:
    """256 or [height, width] -> (height, width)."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(1 <= side <= 2**16 for side in sides):
        raise UserError(f"size is {size}, expected the side of a square or [height, width] in pixels")
    return sides[0], sides[1]


def covering_size(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest size of the same shape (rounded down) that covers `size`; for a square this sets the short side."""
    want_h, want_w = size
    if width * want_h >= height * want_w:  # wider than asked: the height decides
        return want_h, max(want_w, width * want_h // height)
    return max(want_h, height * want_w // width), want_w


def resize_and_crop(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize until `size` is just covered, then crop the centre."""
    return crop(resize_to_cover(frames, size), size)


def resize_to_cover(frames: Tensor, box: tuple[int, int], *, antialias: bool = True) -> Tensor:
    """Resize until `box` is just covered (bilinear); frames that cover it so already are left as they are."""
    cover = covering_size(*frames.shape[1:3], box)
    if frames.shape[1:3] == cover:
        return frames
    x = rearrange(frames, "t h w c -> t c h w")
    resized = F.interpolate(x, size=cover, mode="bilinear", antialias=antialias, align_corners=False)
    return rearrange(resized, "t c h w -> t h w c")


def crop(frames: Tensor, size: tuple[int, int], place: tuple[float, float] | None = None) -> Tensor:
    """`size` out of (t, h, w, c): the middle, or at a place from (0, 0), top left, up to (1, 1), bottom right.

    An odd pixel is left where torchvision and PIL's users expect it (half to even).
    """
    spare = [have - want for have, want in zip(frames.shape[1:3], size, strict=True)]
    if not any(spare):
        return frames
    if place is None:
        top, left = (round(room / 2) for room in spare)
    else:
        top, left = (min(int(part * (room + 1)), room) for part, room in zip(place, spare, strict=True))
    return frames[:, top : top + size[0], left : left + size[1]]


def random_place(rng: torch.Generator) -> tuple[float, float]:
    """Where to crop: uniform, each place with equal chances."""
    down, right = torch.rand(2, generator=rng, dtype=torch.float64).tolist()
    return down, right


def flip_half(frames: Tensor, rng: torch.Generator) -> Tensor:
    """The whole clip mirrored left to right, or not, with equal chances."""
    return frames.flip(2) if is_flipped(rng) else frames


def is_flipped(rng: torch.Generator) -> bool:
    return bool(torch.rand((), generator=rng) < 0.5)


def to_float(frames: Tensor) -> Tensor:
    """uint8 (..., t, h, w, c) -> float (..., c, t, h, w) in [-1, 1]."""
    assert frames.dtype == torch.uint8, f"frames of type {frames.dtype}"
    levels = rearrange(frames, "... t h w c -> ... c t h w")
    video = torch.empty(levels.shape).copy_(levels)  # converts and reorders in one pass, a tenth of the time of two
    return video.div_(127.5).sub_(1)
