"""Attention over the locations of one plane or of all planes (PVDM section 3.2), and of them to text (not in PVDM).

Letters: b batch, c channels, n locations, d width of a head.
"""

from __future__ import annotations

from torch import Tensor, nn

from lvdm.models.denoisers.factorized_attention import PointConv
from lvdm.models.denoisers.text_attention import Attention
from lvdm.models.layers.attention import attend, merge_heads
from lvdm.models.layers.init import zero_init
from lvdm.models.layers.norms import GroupNorm32


class PlaneAttention(nn.Module):
    """x (b, c, ...) -> x + attention over all locations of GN(x), zero at start; with text, then x + attention to the text."""

    def __init__(self, channels: int, num_heads: int, *, context_dim: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = GroupNorm32(channels)
        self.qkv = PointConv(channels, 3 * channels)
        self.proj_out = zero_init(PointConv(channels, channels))
        self.norm_text, self.text = None, None
        if context_dim is not None:
            self.norm_text = nn.LayerNorm(channels)
            self.text = Attention(channels, num_heads, context_dim=context_dim, dropout=dropout)
            zero_init(self.text.to_out)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (b, n, c)
        heads = self.qkv(self.norm.tokens(tokens)).unflatten(2, (self.num_heads, 3, -1))  # q, k, v of a head lie together
        q, k, v = heads.permute(3, 0, 2, 1, 4)  # (b, heads, n, d)
        tokens = tokens + self.proj_out(merge_heads(attend(q, k, v)))
        if self.norm_text is not None and self.text is not None:
            tokens = tokens + self.text(self.norm_text(tokens), context)
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])
