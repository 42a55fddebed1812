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
    if len(sides) != 2 or min(sides) < 1:
        raise UserError(f"size is {size}, expected the side of a square or [height, width] in pixels")
    return sides[0], sides[1]


def covering_size(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest size of the same shape (rounded down) that covers `size`; for a square this sets the short side."""
    want_h, want_w = size
    if width * want_h >= height * want_w:  # wider than asked: the height decides
        return want_h, max(want_w, width * want_h // height)
    return max(want_h, height * want_w // width), want_w


def resize_and_crop(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize until `size` is just covered (bilinear, antialiased), then crop the centre; frames that fit are left as they are."""
    if frames.shape[1:3] != size:
        cover = covering_size(*frames.shape[1:3], size)
        x = rearrange(frames, "t h w c -> t c h w")
        if x.shape[2:] != cover:
            x = F.interpolate(x, size=cover, mode="bilinear", antialias=True, align_corners=False)
        frames = rearrange(centre_crop(x, size), "t c h w -> t h w c")
    return frames


def centre_crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of the last two axes; an odd pixel is left where torchvision and PIL's users expect it (half to even)."""
    top, left = (round((have - want) / 2) for have, want in zip(x.shape[-2:], size, strict=True))
    return x[..., top : top + size[0], left : left + size[1]]


def flip_half(frames: Tensor, rng: torch.Generator) -> Tensor:
    """The whole clip mirrored left to right, or not, with equal chances."""
    return frames.flip(2) if torch.rand((), generator=rng) < 0.5 else frames


def to_float(frames: Tensor) -> Tensor:
    """uint8 (..., t, h, w, c) -> float (..., c, t, h, w) in [-1, 1]."""
    assert frames.dtype == torch.uint8, f"frames of type {frames.dtype}"
    levels = rearrange(frames, "... t h w c -> ... c t h w")
    video = torch.empty(levels.shape).copy_(levels)  # converts and reorders in one pass, a tenth of the time of two
    return video.div_(127.5).sub_(1)
