"""What an autoencoder is trained to keep: pixels, perceptual features, and a latent that is not too far from N(0, 1).

LVDM section 3.1; the adversarial part is `adversary`. Letters: x video, y reconstruction, both (b, 3, t, h, w) in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lvdm.models.autoencoders.posterior import Posterior
from lvdm.models.features import lpips_distance
from lvdm.rules import integer, number, optional, require
from lvdm.types import UserError


@dataclass(frozen=True)
class ReconstructionParts:
    loss: Tensor
    parts: dict[str, Tensor]  # each before its weight


class ReconstructionLoss(nn.Module):
    """Weighted sum of means over all elements; a part of weight 0 is not computed.

    Args:
        l1, l2: weights of |x - y| and (x - y)^2 per pixel and channel.
        lpips: weight of the perceptual distance (VGG16) per frame; docs/autoencoder.md says where its weights lie.
        kl: weight of KL(q || N(0, 1)) per latent element.
        lpips_frames: frames of each clip, drawn anew at every step, that the perceptual distance looks at; all where absent.
        lpips_at_once: frames that it looks at in one go; features of no more are in memory, at the cost of computing them twice.
        learned_scale: divide what is kept by exp(s) and add s, a number that is learned, as published.
    """

    def __init__(
        self,
        *,
        l1: float = 1.0,
        l2: float = 0.0,
        lpips: float = 0.0,
        kl: float = 0.0,
        lpips_frames: int | None = None,
        lpips_at_once: int | None = None,
        learned_scale: bool = False,
    ) -> None:
        super().__init__()
        self.weights = {"l1": l1, "l2": l2, "lpips": lpips, "kl": kl}
        require(number(0, 1e9), **self.weights)
        if l1 + l2 + lpips == 0:
            raise UserError(f"a reconstruction loss needs one of l1, l2, lpips above 0, not {self.weights}")
        require(optional(integer(1)), lpips_frames=lpips_frames, lpips_at_once=lpips_at_once)
        for name, frames in (("lpips_frames", lpips_frames), ("lpips_at_once", lpips_at_once)):
            if frames is not None and lpips == 0:
                raise UserError(f"{name} is {frames}, and has no effect while lpips is 0; leave it out")
        self.lpips_frames, self.lpips_at_once = lpips_frames, lpips_at_once
        self.scale = nn.Parameter(torch.zeros(())) if learned_scale else None
        self._perceptual: tuple[nn.Module, ...] = ()  # in a tuple, so that fixed weights are in no checkpoint and no average

    def load_features(self, *, with_weights: bool = True) -> None:
        """Read what the perceptual distance needs, before training starts; without weights it is good for counting memory."""
        if self.weights["lpips"] > 0 and not self._perceptual:
            without = "set the weight lpips of the reconstruction loss to 0"
            self._perceptual = (lpips_distance("vgg", without=without, with_weights=with_weights),)

    def forward(
        self, video: Tensor, reconstruction: Tensor, posterior: Posterior, generator: torch.Generator | None = None
    ) -> ReconstructionParts:
        """`generator` draws the frames that the perceptual distance looks at; without one it looks at all."""
        difference = reconstruction.float() - video.float()
        makers = {
            "l1": lambda: difference.abs().mean(),
            "l2": lambda: difference.square().mean(),
            "lpips": lambda: self._lpips(video, reconstruction, generator),
            "kl": lambda: posterior.kl().sum() / posterior.mean.numel(),
        }
        parts = {name: make() for name, make in makers.items() if self.weights[name] > 0}
        kept = torch.stack([self.weights[name] * part for name, part in parts.items() if name != "kl"]).sum()
        if self.scale is not None:
            kept = kept * torch.exp(-self.scale) + self.scale
        loss = kept + self.weights["kl"] * parts["kl"] if "kl" in parts else kept
        return ReconstructionParts(loss, parts)

    def _lpips(self, video: Tensor, reconstruction: Tensor, generator: torch.Generator | None) -> Tensor:
        assert self._perceptual, "load_features comes first"
        count = video.shape[2]
        if generator is not None and self.lpips_frames is not None and self.lpips_frames < count:
            chosen = torch.randperm(count, generator=generator)[: self.lpips_frames].sort().values.tolist()
            video, reconstruction = video[:, :, chosen], reconstruction[:, :, chosen]
        frames, made = (rearrange(v, "b c t h w -> (b t) c h w") for v in (video, reconstruction))
        distance = self._perceptual[0]
        if next(distance.parameters()).device != video.device:
            distance.to(video.device)
        if self.lpips_at_once is None or len(frames) <= self.lpips_at_once:
            return distance(made, frames).mean()
        tiles = zip(made.split(self.lpips_at_once), frames.split(self.lpips_at_once), strict=True)
        return torch.cat([checkpoint(distance, *tile, use_reentrant=False).flatten() for tile in tiles]).mean()
