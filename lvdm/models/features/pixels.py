"""How near reconstructions are to their videos in pixels, per clip: both (b, 3, t, h, w) in [-1, 1]; the made one is clamped."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HIGHEST = 100.0  # dB, of a frame that is equal
RADIUS, SIGMA = 5, 1.5  # of SSIM's Gaussian window, pixels
C1, C2 = 0.01**2, 0.03**2  # SSIM's constants for pixels in [0, 1]


def psnr(video: Tensor, reconstruction: Tensor) -> Tensor:
    """Return (b,) peak signal to noise in dB, from the squared error over the whole clip, as PVDM reports it."""
    error = (video.float() - reconstruction.float().clamp(-1, 1)).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def psnr_per_frame(video: Tensor, reconstruction: Tensor) -> Tensor:
    """Return (b,), the mean over a clip's frames of their peak signal to noise in dB, each 100 at most.

    It is above `psnr` if some frames are better than others, because the mean of logarithms is not the logarithm of the mean.
    """
    error = (video.float() - reconstruction.float().clamp(-1, 1)).square().mean((1, 3, 4))  # (b, t)
    return (10 * torch.log10(4 / error)).clamp(max=HIGHEST).mean(1)


def ssim(video: Tensor, reconstruction: Tensor) -> Tensor:
    """Return (b,), the structural similarity of frames (Wang et al. 2004, eq. 13), averaged over each clip.

    Gaussian window of 11, each colour by itself, borders mirrored. Pixels lie in [0, 1]: the range matters, because the term of
    the means changes when both images are shifted. In float64, because flat windows cancel.
    """
    pairs = zip(video.transpose(1, 2).flatten(0, 1), reconstruction.transpose(1, 2).flatten(0, 1), strict=True)
    each = torch.stack([_ssim_of_frame(*((frame.double().clamp(-1, 1) + 1) / 2 for frame in pair)) for pair in pairs])
    return each.view(len(video), -1).mean(1).float()


def _ssim_of_frame(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean over all positions and colours of two images (3, h, w)."""
    mean_x, mean_y, squares, products = (_blurred(part) for part in (x, y, x * x + y * y, x * y))
    means, both = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    variances, covariance = (squares - means).clamp(min=0), products - both
    return ((2 * both + C1) * (2 * covariance + C2) / ((means + C1) * (variances + C2))).mean()


def _blurred(image: Tensor) -> Tensor:
    """Return Gaussian means of (c, h, w), along the rows and then along the columns: 22 products a pixel, not 121."""
    at = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    window = (-(at**2) / (2 * SIGMA**2)).exp()
    weights = (window / window.sum()).tolist()
    padded = F.pad(image, (RADIUS,) * 4, mode="reflect")
    for axis in (-1, -2):
        length = padded.shape[axis] - 2 * RADIUS
        total = padded.narrow(axis, 0, length) * weights[0]
        for offset, weight in enumerate(weights[1:], 1):
            total.add_(padded.narrow(axis, offset, length), alpha=weight)
        padded = total
    return padded
