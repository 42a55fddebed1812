"""What an autoencoder is trained to keep: pixels, perceptual features, and a latent that is not too far from N(0, 1).

LVDM section 3.1 without its adversarial part. Letters: x video, y reconstruction, both (b, 3, t, h, w) in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from lvdm.models.autoencoders.posterior import Posterior
from lvdm.types import UserError


@dataclass(frozen=True)
class ReconstructionParts:
    loss: Tensor
    parts: dict[str, Tensor]  # each before its weight


class ReconstructionLoss(nn.Module):
    """Weighted sum of means over all elements; a part of weight 0 is not computed.

    Args:
        l1, l2: weights of |x - y| and (x - y)^2 per pixel and channel.
        lpips: weight of the perceptual distance (VGG) per frame; its weights are fetched once by torchvision.
        kl: weight of KL(q || N(0, 1)) per latent element.
    """

    def __init__(self, *, l1: float = 1.0, l2: float = 0.0, lpips: float = 0.0, kl: float = 0.0) -> None:
        super().__init__()
        self.weights = {"l1": l1, "l2": l2, "lpips": lpips, "kl": kl}
        if min(self.weights.values()) < 0 or l1 + l2 + lpips == 0:
            raise UserError(f"a reconstruction loss needs weights >= 0 and one of l1, l2, lpips above 0, not {self.weights}")
        self._perceptual: tuple[nn.Module, ...] = ()  # in a tuple, so that fixed weights are in no checkpoint and no average

    def load_features(self) -> None:
        """Fetch what the perceptual distance needs, before training starts."""
        if self.weights["lpips"] > 0 and not self._perceptual:
            self._perceptual = (_perceptual(),)

    def forward(self, video: Tensor, reconstruction: Tensor, posterior: Posterior) -> ReconstructionParts:
        difference = reconstruction.float() - video.float()
        makers = {
            "l1": lambda: difference.abs().mean(),
            "l2": lambda: difference.square().mean(),
            "lpips": lambda: self._lpips(video, reconstruction),
            "kl": lambda: posterior.kl().sum() / posterior.mean.numel(),
        }
        parts = {name: make() for name, make in makers.items() if self.weights[name] > 0}
        return ReconstructionParts(torch.stack([self.weights[name] * part for name, part in parts.items()]).sum(), parts)

    def _lpips(self, video: Tensor, reconstruction: Tensor) -> Tensor:
        assert self._perceptual, "load_features comes first"
        distance = self._perceptual[0].to(video.device)
        frames, made = (rearrange(v, "b c t h w -> (b t) c h w") for v in (video, reconstruction))
        return distance(made, frames).mean()


def _perceptual() -> nn.Module:
    import lpips  # slow to import, and its features are fetched on first use

    try:
        return lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)
    except (OSError, RuntimeError) as error:  # no network; a download cut short, whose hash is wrong
        raise UserError(
            f"the perceptual loss needs torchvision's VGG16 weights, which could not be fetched ({error}); "
            "connect once, put them under TORCH_HOME, or set lpips: 0"
        ) from error
