"""Numbers as vectors: diffusion time, frame index, frames per second (LVDM section 3; DDPM's sinusoidal features).

Letters: b batch, t frames, h w space, e width of the embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lvdm.models.layers.init import zero_init

INDEX_PERIOD = 64.0  # positions are small whole numbers, between which slower waves hardly differ


def sinusoidal_features(values: Tensor, width: int, *, max_period: float = 10000.0) -> Tensor:
    """cat[cos(v f), sin(v f)], f_i = max_period^(-i / half), in float32: (...) -> (..., width)."""
    half = width // 2
    index = torch.arange(half, dtype=torch.float32, device=values.device)
    angles = values.float()[..., None] * torch.exp(-math.log(max_period) / half * index)
    features = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return nn.functional.pad(features, (0, width - 2 * half))


class NumberEmbedding(nn.Sequential):
    """Features of a number -> Linear, SiLU, Linear. With `starts_at_zero` the branch has no effect at the start of training."""

    def __init__(self, features: int, width: int, *, starts_at_zero: bool = False) -> None:
        last = nn.Linear(width, width)
        super().__init__(nn.Linear(features, width), nn.SiLU(), zero_init(last) if starts_at_zero else last)

    def forward(self, features: Tensor) -> Tensor:
        first = self[0]
        assert isinstance(first, nn.Linear)
        return super().forward(features.to(first.weight.dtype))


class OptionalEmbedding(nn.Embedding):
    """An Embedding that returns zeros for a negative index (ABSENT), without a host sync."""

    def forward(self, index: Tensor) -> Tensor:
        return super().forward(index.clamp(min=0)) * (index >= 0)[..., None]


class GridPosition(nn.Module):
    """Sinusoidal features of a token's (frame, row, column) -> width, zero at start: (t, h, w) -> (t h w, width)."""

    def __init__(self, width: int, *, features_per_axis: int = 32) -> None:
        super().__init__()
        self.features_per_axis = features_per_axis
        self.proj = zero_init(nn.Linear(3 * features_per_axis, width))

    def forward(self, t: int, h: int, w: int, device: torch.device) -> Tensor:
        axes = [torch.arange(size, device=device) for size in (t, h, w)]
        index = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)  # (t, h, w, 3)
        features = sinusoidal_features(index, self.features_per_axis, max_period=INDEX_PERIOD)
        return self.proj(features.flatten(3).flatten(0, 2).to(self.proj.weight.dtype))
