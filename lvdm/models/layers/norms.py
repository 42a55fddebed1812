"""GroupNorm with 32 groups, statistics in float32 (LVDM section 3).

Letters: b batch, c channels, t frames, h w space.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.types import UserError

GROUPS = 32


def layout_of(x: Tensor) -> torch.memory_format:
    """Return the layout of activations: channels last, but dense for images on a CPU, where that is as fast and rounds less."""
    if x.ndim == 5:
        return torch.channels_last_3d
    return torch.channels_last if x.ndim == 4 and x.device.type != "cpu" else torch.contiguous_format


class GroupNorm32(nn.GroupNorm):
    """GroupNorm over (c / 32, everything after c), computed in float32 and returned in the input's dtype."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        if channels % GROUPS:
            raise UserError(f"a layer has {channels} channels, GroupNorm needs a multiple of {GROUPS}; change model_channels")
        super().__init__(GROUPS, channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        dense = x.contiguous()  # the CPU's kernel for channels last is 3 to 8 times slower
        if x.device.type != "cpu":  # the CPU's computes in float32 inside
            dense, weight, bias = dense.float(), weight.float(), bias.float()
        out = F.group_norm(dense, self.num_groups, weight, bias, self.eps).to(x.dtype)
        return out.contiguous(memory_format=layout_of(x))

    def tokens(self, x: Tensor) -> Tensor:
        """Normalise (n, tokens, c) with statistics over (c / 32, tokens)."""
        return self(x.transpose(1, 2)).transpose(1, 2)
