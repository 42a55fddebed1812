"""The reconstruction loss of an autoencoder: pixels, perceptual features, and a latent close to N(0, 1).

LVDM section 3.1; the adversarial part is `adversary`. Letters: x video, y reconstruction, both (b, 3, t, h, w) in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lvdm.models.autoencoders.posterior import Posterior
from lvdm.models.features import lpips_distance
from lvdm.rules import integer, number, one_of, optional, require
from lvdm.types import UserError

Reduction = Literal["mean", "frame"]


@dataclass(frozen=True)
class ReconstructionParts:
    """The result of a reconstruction loss: the loss, and its parts to log."""

    loss: Tensor  # a scalar
    parts: dict[str, Tensor] = field(default_factory=dict)  # scalars by name, before their weights


class ReconstructionLoss(nn.Module):
    """A weighted sum of pixel, perceptual and latent terms; a part with weight 0 is not computed, and all are logged as means.

    Args:
        l1, l2: weights of |x - y| and (x - y)^2 per pixel and channel.
        lpips: weight of the perceptual distance (VGG16) per frame; docs/autoencoder.md says where to put VGG's weights.
        kl: weight of KL(q || N(0, 1)) per latent element.
        lpips_frames: frames of each clip for the perceptual distance, chosen again at every step; None takes all.
        lpips_at_once: frames that are processed together; fewer need less memory, but features are computed twice.
        learned_scale: divide the sum of l1, l2 and lpips by exp(s) and add s, a learned number. (The published loss has such a
            number and never trains it: it stays 0.)
        reduction: "mean" over all elements; or "frame", as published: the sum over a frame's pixels and channels, averaged over
            frames, and the KL summed over a clip, averaged over clips. The adaptive weight of an adversary depends on it.
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
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.weights = {"l1": l1, "l2": l2, "lpips": lpips, "kl": kl}
        require(number(0, 1e9), **self.weights)
        if l1 + l2 + lpips == 0:
            raise UserError(f"the weights are {self.weights}, expected one of l1, l2 and lpips above 0; raise one")
        require(optional(integer(1)), lpips_frames=lpips_frames, lpips_at_once=lpips_at_once)
        for name, frames in (("lpips_frames", lpips_frames), ("lpips_at_once", lpips_at_once)):
            if frames is not None and lpips == 0:
                raise UserError(f"{name} is {frames}, but has no effect while lpips is 0; leave it out")
        require(one_of(*get_args(Reduction)), reduction=reduction)
        self.lpips_frames, self.lpips_at_once, self.reduction = lpips_frames, lpips_at_once, reduction
        self.scale = nn.Parameter(torch.zeros(())) if learned_scale else None
        self._perceptual: tuple[nn.Module, ...] = ()  # a tuple keeps the frozen weights out of checkpoints and averages

    def load_features(self, *, with_weights: bool = True) -> None:
        """Load the perceptual network before training starts; without weights it serves to estimate memory."""
        if self.weights["lpips"] > 0 and not self._perceptual:
            without = "set the weight lpips of the reconstruction loss to 0"
            self._perceptual = (lpips_distance("vgg", without=without, with_weights=with_weights),)

    def forward(
        self, video: Tensor, reconstruction: Tensor, posterior: Posterior, generator: torch.Generator | None = None
    ) -> ReconstructionParts:
        """Return the loss; `generator` chooses the frames for the perceptual distance, and None takes all."""
        difference = reconstruction.float() - video.float()
        functions = {
            "l1": lambda: difference.abs().mean(),
            "l2": lambda: difference.square().mean(),
            "lpips": lambda: self._lpips(video, reconstruction, generator),
            "kl": lambda: posterior.kl().sum() / posterior.mean.numel(),
        }
        parts = {name: function() for name, function in functions.items() if self.weights[name] > 0}
        loss = torch.stack([self.weights[name] * part for name, part in parts.items() if name != "kl"]).sum()
        if self.scale is not None:
            loss = loss * torch.exp(-self.scale) + self.scale
        of_frame, of_clip = (video[0, :, 0].numel(), posterior.mean[0].numel()) if self.reduction == "frame" else (1, 1)
        loss = of_frame * loss
        if "kl" in parts:
            loss = loss + of_clip * self.weights["kl"] * parts["kl"]
        return ReconstructionParts(loss, parts)

    def _lpips(self, video: Tensor, reconstruction: Tensor, generator: torch.Generator | None) -> Tensor:
        assert self._perceptual, "call load_features before"
        count = video.shape[2]
        if generator is not None and self.lpips_frames is not None and self.lpips_frames < count:
            chosen = torch.randperm(count, generator=generator)[: self.lpips_frames].sort().values.tolist()
            video, reconstruction = video[:, :, chosen], reconstruction[:, :, chosen]
        real, fake = (rearrange(v, "b c t h w -> (b t) c h w") for v in (video, reconstruction))
        distance = self._perceptual[0]
        if next(distance.parameters()).device != video.device:
            distance.to(video.device)
        if self.lpips_at_once is None or len(real) <= self.lpips_at_once:
            return distance(fake, real).mean()
        tiles = zip(fake.split(self.lpips_at_once), real.split(self.lpips_at_once), strict=True)
        return torch.cat([checkpoint(distance, *tile, use_reentrant=False).flatten() for tile in tiles]).mean()
