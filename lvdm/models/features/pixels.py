"""How near reconstructions are to their videos in pixels, per clip: both (b, 3, t, h, w) in [-1, 1]; the made one is clamped."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

HIGHEST = 100.0  # dB, of a frame that is equal


def psnr(video: Tensor, reconstruction: Tensor) -> Tensor:
    """Return (b,) peak signal to noise in dB, from the squared error over the whole clip, as PVDM reports it."""
    error = (video.float() - reconstruction.float().clamp(-1, 1)).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def psnr_per_frame(video: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal to noise in dB of each frame, 100 at most, averaged over the clip's frames: (b,). It is above `psnr` where some
    frames are better than others, for the mean of logarithms is not the logarithm of the mean."""
    error = (video.float() - reconstruction.float().clamp(-1, 1)).square().mean((1, 3, 4))  # (b, t)
    return (10 * torch.log10(4 / error)).clamp(max=HIGHEST).mean(1)


def ssim(video: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity of each frame (Gaussian window of 11, each colour by itself, on pixels in [0, 1]), averaged: (b,).
    The range matters: the term of the means changes when both images are shifted. In float64, since flat windows cancel."""
    frames, made = (rearrange((v.double().clamp(-1, 1) + 1) / 2, "b c t h w -> (b t) c h w") for v in (video, reconstruction))
    with torch.autocast(video.device.type, enabled=False):
        each = structural_similarity_index_measure(made, frames, data_range=1.0, reduction="none")
    assert isinstance(each, Tensor)  # a pair if more is requested
    return each.view(len(video), -1).mean(1).float()
