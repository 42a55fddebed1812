"""The output of an encoder: a diagonal Gaussian over latents, q(z|x) = N(mean, exp(logvar)) (VAE, appendix B).

Letters: b batch, c channels, t frames, h w; z latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lvdm.planes import Planes
from lvdm.types import UserError

LOGVAR_RANGE = (-30.0, 20.0)  # as published


@dataclass(frozen=True)
class Posterior:
    """q(z|x); mean and logvar are (b, c, t, h, w), or (b, c, l) for planes."""

    mean: Tensor
    logvar: Tensor

    @staticmethod
    def from_moments(moments: Tensor) -> Posterior:
        """Split channels into mean and logvar; clamp logvar."""
        mean, logvar = moments.chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(*LOGVAR_RANGE))

    @staticmethod
    def exact(latent: Tensor) -> Posterior:
        """Return the posterior of an autoencoder without noise: every sample is the latent itself, and the KL is infinite."""
        return Posterior(latent, torch.full_like(latent, -torch.inf))

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return a sample. Its noise is drawn on the generator's device, or on the latent's without one."""
        device = self.mean.device if generator is None else generator.device
        return self.at(torch.randn(self.mean.shape, generator=generator, device=device, dtype=torch.float32))

    def at(self, eps: Tensor) -> Tensor:
        """Return z = mean + sigma * eps."""
        return self.mean + torch.exp(0.5 * self.logvar) * eps.to(self.mean)

    def kl(self) -> Tensor:
        """Return KL(q || N(0, 1)) in nats, summed over everything but the batch: (b,)."""
        mean, logvar = self.mean.float(), self.logvar.float()
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).flatten(1).sum(dim=1)


def check_video_shape(
    shape: Sequence[int],
    *,
    temporal_factor: int,
    spatial_factor: int,
    first_frame_alone: bool = False,
    planes: Planes | None = None,
) -> None:
    """Refuse videos that do not divide into whole latents, or that are not one whole clip if the latent is its planes."""
    if len(shape) != 5 or shape[1] != 3:
        raise UserError(f"an autoencoder takes videos shaped (b, 3, t, h, w), this one is {tuple(shape)}")
    _, _, frames, height, width = shape
    if planes is not None:
        clip = (planes.frames, planes.height * spatial_factor, planes.width * spatial_factor)
        if (frames, height, width) != clip:
            raise UserError(
                f"the video has {frames} frames of {height}x{width}, and this autoencoder takes clips of {clip[0]} frames of "
                f"{clip[1]}x{clip[2]}; cut it into such clips, crop or resize it"
            )
    elif frames < 1 or (frames - first_frame_alone) % temporal_factor or height % spatial_factor or width % spatial_factor:
        after, plus = (" after a first frame alone", ", plus one frame") if first_frame_alone else ("", "")
        raise UserError(
            f"{frames} frames of {height}x{width} do not divide into latents of {temporal_factor} frames{after} and "
            f"{spatial_factor}x{spatial_factor} pixels; crop or resize to multiples of these{plus}"
        )
