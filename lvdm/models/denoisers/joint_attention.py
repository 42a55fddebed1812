"""Attention over all frames and pixels at once, for low resolutions (not in LVDM; see the UNet's option).

Letters: b batch, c channels, t frames, h w space.
"""

from __future__ import annotations

from torch import Tensor, nn

from lvdm.models.layers.attention import attend, merge_heads, split_heads
from lvdm.models.layers.embeddings import GridPosition
from lvdm.models.layers.init import zero_init
from lvdm.models.layers.norms import GroupNorm32


class JointAttention(nn.Module):
    """x + proj(attention over the (t h w) tokens of GN(x) + position); zero at start."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = GroupNorm32(channels)
        self.position = GridPosition(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj_out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        b, _, t, h, w = x.shape
        tokens = self.norm(x).movedim(1, -1).flatten(1, 3)  # (b, t h w, c)
        tokens = tokens + self.position(t, h, w, x.device).to(tokens.dtype)
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(tokens).chunk(3, dim=-1))
        out = self.proj_out(merge_heads(attend(q, k, v)))
        return x + out.unflatten(1, (t, h, w)).movedim(-1, 1)
