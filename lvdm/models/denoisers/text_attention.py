"""Attention blocks of the text-to-video model: space, time, text, time, feed-forward (LVDM, text-to-video).

Letters: b batch, c channels, t frames, h w space, n text tokens, d width of a head.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.models.layers.attention import RelativePosition, attend, attend_relative, merge_heads, query_bias, split_heads
from lvdm.models.layers.convolutions import SpaceConv
from lvdm.models.layers.init import zero_init
from lvdm.models.layers.norms import GroupNorm32


class Attention(nn.Module):
    """Multi-head attention of tokens to `context`, or to themselves if there is none."""

    def __init__(self, channels: int, num_heads: int, *, context_dim: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim or channels, channels, bias=False)
        self.to_v = nn.Linear(context_dim or channels, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(dropout))

    def heads(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return split_heads(q, self.num_heads), split_heads(k, self.num_heads), split_heads(v, self.num_heads)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        q, k, v = self.heads(x, x if context is None else context)
        return self.to_out(merge_heads(attend(q, k, v)))


class TimeAttention(Attention):
    """Self-attention over frames with relative positions: sim[i, j] = (q_i . k_j + q_i . R_k[i, j]) / sqrt(d)."""

    def __init__(self, channels: int, num_heads: int, *, temporal_length: int, dropout: float = 0.0) -> None:
        super().__init__(channels, num_heads, dropout=dropout)
        self.relative_position_k = RelativePosition(channels // num_heads, temporal_length)
        self.relative_position_v = RelativePosition(channels // num_heads, temporal_length)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        q, k, v = self.heads(x, x)
        t, d = q.shape[-2:]
        key_bias = query_bias(q * d**-0.5, self.relative_position_k(t))
        return self.to_out(merge_heads(attend_relative(q, k, v, key_bias, self.relative_position_v(t))))


class GEGLU(nn.Module):
    """value * gelu(gate), exact gelu."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU of inner width 4c, then back to c."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(channels, 4 * channels), nn.Dropout(dropout), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TextBlock(nn.Module):
    """Space, time, text (or space again without context), time, feed-forward; tokens (b, t, h w, c), each a residual."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        temporal_length: int,
        relative_position: bool,
        context_dim: int | None,
        dropout: float,
    ) -> None:
        super().__init__()

        def time_attention() -> Attention:
            if relative_position:
                return TimeAttention(channels, num_heads, temporal_length=temporal_length, dropout=dropout)
            return Attention(channels, num_heads, dropout=dropout)

        self.attn1 = Attention(channels, num_heads, dropout=dropout)
        self.attn2 = Attention(channels, num_heads, context_dim=context_dim, dropout=dropout)
        self.ff = FeedForward(channels, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.attn1_tmp, self.attn2_tmp = time_attention(), time_attention()
        self.norm4, self.norm5 = (nn.LayerNorm(channels) for _ in range(2))

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + over_time(self.attn1_tmp, self.norm4(x))
        x = x + self._attend_text(self.norm2(x), context)
        x = x + over_time(self.attn2_tmp, self.norm5(x))
        return x + self.ff(self.norm3(x))

    def _attend_text(self, x: Tensor, context: Tensor | None) -> Tensor:
        if context is None:
            return self.attn2(x)
        return self.attn2(x.flatten(1, 2), context).view(x.shape)  # every pixel of the clip is a query


def over_time(attention: Attention, x: Tensor) -> Tensor:
    """Attention along the frames of tokens (b, t, h w, c)."""
    return attention(x.transpose(1, 2)).transpose(1, 2)


class TextAttention(nn.Module):
    """x + proj_out(blocks(proj_in(GN(x)))), on the whole clip; zero at start."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        depth: int,
        temporal_length: int,
        relative_position: bool,
        context_dim: int | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm = GroupNorm32(channels, eps=1e-6)
        self.proj_in = SpaceConv(channels, channels, kernel=1)
        self.transformer_blocks = nn.ModuleList(
            TextBlock(
                channels,
                num_heads,
                temporal_length=temporal_length,
                relative_position=relative_position,
                context_dim=context_dim,
                dropout=dropout,
            )
            for _ in range(depth)
        )
        self.proj_out = zero_init(SpaceConv(channels, channels, kernel=1))

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        h, w = x.shape[3:]
        tokens = self.proj_in(self.norm(x)).movedim(1, -1).flatten(2, 3)  # (b, t, h w, c)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.unflatten(2, (h, w)).movedim(-1, 1))
