"""Denoisers as a user writes them, with no class of lvdm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lvdm.types import Condition, DenoiserInputs


class Plain(nn.Module):
    """One convolution of the latent and one number for the time; it takes nothing else."""

    inputs = DenoiserInputs()

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.space = nn.Conv3d(channels, channels, 3, padding=1)
        self.time = nn.Linear(1, channels)
        self.seen: list[set[str]] = []

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        self.seen.append(set() if cond is None else cond.given)
        return self.space(x) + self.time(t.float().view(len(x), -1, 1) / 1000).mean(dim=1)[:, :, None, None, None]


class Classes(Plain):
    """Takes a mask and a class. Its table of classes has the name under which UNet3D keeps noise levels."""

    inputs = DenoiserInputs(mask=True, num_labels=3)

    def __init__(self, channels: int = 2) -> None:
        super().__init__(channels)
        self.label_emb = nn.Embedding(3, channels)

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        out = super().forward(x, t, cond)
        if cond is None or cond.label is None:
            return out
        return out + (self.label_emb(cond.label.clamp(min=0)) * (cond.label >= 0)[:, None])[:, :, None, None, None]


class Silent(nn.Module):
    """Says nothing about what it takes."""

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        return torch.zeros_like(x)
