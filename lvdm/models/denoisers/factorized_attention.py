"""Attention over one frame's pixels, then over one pixel's frames (LVDM section 3; the published model without text).

Letters: b batch, c channels, t frames, h w space, d width of a head.
"""

from __future__ import annotations

from torch import Tensor, nn

from lvdm.models.layers.attention import (
    RelativePosition,
    attend,
    attend_relative,
    merge_heads,
    query_of_key_bias,
    split_heads,
)
from lvdm.models.layers.init import zero_init
from lvdm.models.layers.norms import GroupNorm32


class PointConv(nn.Conv1d):
    """A 1x1 convolution on tokens (n, m, c); weight (out, in, 1) as published."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.linear(tokens, self.weight.squeeze(2), self.bias)


class FactorizedAttention(nn.Module):
    """Space, then time, each a residual with its own norm; in time with relative positions of keys and values."""

    def __init__(self, channels: int, num_heads: int, *, temporal_length: int, relative_position: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_s = GroupNorm32(channels)
        self.norm_t = GroupNorm32(channels)
        self.qkv_s = PointConv(channels, 3 * channels)
        self.qkv_t = PointConv(channels, 3 * channels)
        self.relative_position_k = RelativePosition(channels // num_heads, temporal_length) if relative_position else None
        self.relative_position_v = RelativePosition(channels // num_heads, temporal_length) if relative_position else None
        self.proj_out_s = zero_init(PointConv(channels, channels))
        self.proj_out_t = zero_init(PointConv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        b, _, t, h, w = x.shape
        tokens = x.movedim(1, -1).reshape(b * t, h * w, -1)
        tokens = tokens + self._space(tokens)
        columns = tokens.unflatten(0, (b, t)).transpose(1, 2).flatten(0, 1)  # (b h w, t, c)
        columns = columns + self._time(columns)
        return columns.unflatten(0, (b, h, w)).permute(0, 4, 3, 1, 2)

    def _space(self, tokens: Tensor) -> Tensor:
        q, k, v = self._heads(self.qkv_s(self.norm_s.tokens(tokens)))
        return self.proj_out_s(merge_heads(attend(q, k, v)))

    def _time(self, columns: Tensor) -> Tensor:
        q, k, v = self._heads(self.qkv_t(self.norm_t.tokens(columns)))
        if self.relative_position_k is None or self.relative_position_v is None:
            return self.proj_out_t(merge_heads(attend(q, k, v)))
        t, d = q.shape[-2:]
        key_bias = query_of_key_bias(q * d**-0.25, self.relative_position_k(t))
        return self.proj_out_t(merge_heads(attend_relative(q, k, v, key_bias, self.relative_position_v(t))))

    def _heads(self, qkv: Tensor) -> list[Tensor]:
        return [split_heads(part, self.num_heads) for part in qkv.chunk(3, dim=-1)]
