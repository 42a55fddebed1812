"""From the pixels of a source to those a protocol measures: square frames of its resolution, floats to levels its way.

Letters: t frames, h w, c channels; frames are uint8 (t, h, w, c). Done once, on the CPU, before any extractor.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lvdm.evaluation.protocols.protocol import EvalProtocol

WHOLE = 1 / 1024  # what float noise left this little below a whole level is that level


def prepare(frames: Tensor, protocol: EvalProtocol) -> Tensor:
    """Return frames of any size (t, h, w, c) as the protocol measures them; those of its size, or if it has none, stay."""
    side = protocol.resolution
    if side is None or tuple(frames.shape[1:3]) == (side, side):
        return frames
    assert frames.dtype == torch.uint8 and frames.ndim == 4, f"frames {frames.dtype} {tuple(frames.shape)}"
    is_cropped_first = protocol.resize.startswith("crop")
    if is_cropped_first:
        frames = _centre(frames, min(frames.shape[1:3]), protocol.crop)
    height, width = frames.shape[1:3]
    long = _long_side(height, width, side, protocol.long_side)
    size = (side, long) if height < width else (long, side)
    resized = _lanczos(frames, size) if "lanczos" in protocol.resize else _bilinear(frames, size, protocol)
    return _centre(resized, side, protocol.crop)


def to_levels(video: Tensor, quantise: str) -> Tensor:
    """Return floats in [-1, 1] as levels 0 to 255: 127.5 (x + 1) cut off, or with one half added before; "none" keeps floats."""
    levels = 127.5 * (video.float() + 1)
    return levels.clamp(0, 255) if quantise == "none" else _as_uint8(levels, quantise)


def _long_side(height: int, width: int, side: int, rounding: str) -> int:
    """Return the long side of a frame whose short one becomes `side`; rounded up as VideoGPT does, in floats."""
    short, long = sorted((height, width))
    return math.ceil(long * (side / short)) if rounding == "ceil" else long * side // short


def _as_uint8(levels: Tensor, quantise: str) -> Tensor:
    return (levels + (0.5 if quantise == "round" else WHOLE)).floor().clamp(0, 255).to(torch.uint8)


def _bilinear(frames: Tensor, size: tuple[int, int], protocol: EvalProtocol) -> Tensor:
    x = rearrange(frames, "t h w c -> t c h w").float()
    resized = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=protocol.antialias)
    return rearrange(_as_uint8(resized, protocol.quantise), "t c h w -> t h w c").contiguous()


def _lanczos(frames: Tensor, size: tuple[int, int]) -> Tensor:
    images = (Image.fromarray(frame).resize(size[::-1], Image.Resampling.LANCZOS) for frame in frames.cpu().numpy())
    return torch.from_numpy(np.stack([np.asarray(image) for image in images]))


def _centre(frames: Tensor, side: int, rounding: str) -> Tensor:
    outside = [length - side for length in frames.shape[1:3]]
    top, left = (out // 2 if rounding == "floor" else round(out / 2) for out in outside)
    return frames[:, top : top + side, left : left + side]
