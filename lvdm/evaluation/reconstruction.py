"""How well a codec keeps clips: each clip's scores of pixels and of LPIPS, by name.

Letters: b clips, c channels, t frames, h w; videos and reconstructions are floats in [-1, 1], the reconstructions clamped, and
neither is rounded to levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from lvdm.models.features import lpips_of_clips, psnr, psnr_per_frame, ssim
from lvdm.types import UserError

PIXELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr_clip": psnr, "psnr_frame": psnr_per_frame, "ssim": ssim}
# Each score and the least pixels on a side: the window of SSIM, what the trunks' pools leave something of.
LEAST_SIDE = {"psnr_clip": 1, "psnr_frame": 1, "ssim": 11, "lpips_vgg": 16, "lpips_alex": 31}


def score_names(perceptual: Mapping[str, nn.Module]) -> list[str]:
    """Return the names of the scores, in their order."""
    return [*PIXELS, *perceptual]


def clip_scores(video: Tensor, reconstruction: Tensor, perceptual: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return (b,) of each score, from (b, 3, t, h, w) twice; `perceptual` are LPIPS distances under their names."""
    made = reconstruction.float().clamp(-1, 1)
    of_pixels = {name: score(video, made) for name, score in PIXELS.items()}
    return of_pixels | {name: lpips_of_clips(distance, video, made) for name, distance in perceptual.items()}


def check_side(side: int, names: list[str]) -> None:
    """Refuse frames that are too small for these scores."""
    small = [name for name in names if side < LEAST_SIDE[name]]
    if small:
        needed = f"{LEAST_SIDE[small[0]]} pixels or more on each side"
        how = "change the protocol to resolution=SIDE resize='crop, bilinear'"
        raise UserError(f"{small[0]} needs frames of {needed}, not {side}; {how}")
