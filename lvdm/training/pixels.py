"""How near reconstructions are to their videos, per video: both (b, 3, t, h, w) in [-1, 1]."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure


def psnr(video: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal to noise in dB over all frames: (b,)."""
    error = (video.float() - reconstruction.float().clamp(-1, 1)).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def ssim(video: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity of each frame (Gaussian window of 11), averaged: (b,)."""
    frames, made = (rearrange(v.float().clamp(-1, 1), "b c t h w -> (b t) c h w") for v in (video, reconstruction))
    with torch.autocast(video.device.type, enabled=False):
        each = structural_similarity_index_measure(made, frames, data_range=2.0, reduction="none")
    return each.view(len(video), -1).mean(1)
