"""Residual block of the UNet: convolutions in space, the embedding as scale and shift per frame, optionally a convolution
in time (LVDM section 3, figure 2).

Letters: b batch, c channels, t frames, h w space, e width of the embedding.
"""

from __future__ import annotations

from torch import Tensor, nn

from lvdm.models.layers.convolutions import SpaceConv, TimeConv
from lvdm.models.layers.init import zero_init
from lvdm.models.layers.norms import GroupNorm32


def per_frame(x: Tensor) -> Tensor:
    """(b, t, c) -> (b, c, t, 1, 1)."""
    return x.transpose(1, 2)[..., None, None]


class ResBlock(nn.Module):
    """x (b, c, t, h, w), emb (b, t, e) already through SiLU (once for all blocks) -> (b, out, t, h, w).

    With `temporal_conv`, the block ends in x + TimeConv(silu(GN(x))): kernel 3 over frames, zero at start. Its zero padding
    shows the network the ends of the window.
    """

    def __init__(
        self, channels: int, emb_channels: int, out_channels: int, *, dropout: float, scale_shift_norm: bool, temporal_conv: bool
    ) -> None:
        super().__init__()
        self.scale_shift_norm = scale_shift_norm
        emb_out = 2 * out_channels if scale_shift_norm else out_channels
        self.in_layers = nn.Sequential(GroupNorm32(channels), nn.SiLU(), SpaceConv(channels, out_channels))
        self.emb_layers = nn.Sequential(nn.Identity(), nn.Linear(emb_channels, emb_out))
        self.out_layers = nn.Sequential(
            GroupNorm32(out_channels), nn.SiLU(), nn.Dropout(dropout), zero_init(SpaceConv(out_channels, out_channels))
        )
        is_same = channels == out_channels
        self.skip_connection = nn.Identity() if is_same else SpaceConv(channels, out_channels, kernel=1)
        self.time_layers = nn.Sequential(GroupNorm32(out_channels), nn.SiLU(), TimeConv(out_channels)) if temporal_conv else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x)
        h = self._modulate(h, per_frame(self.emb_layers(emb).to(h.dtype)))
        h = self.skip_connection(x) + self.out_layers[1:](h)
        return h if self.time_layers is None else h + self.time_layers(h)

    def _modulate(self, h: Tensor, emb: Tensor) -> Tensor:
        norm = self.out_layers[0]
        if not self.scale_shift_norm:
            return norm(h + emb)
        scale, shift = emb.chunk(2, dim=1)
        return norm(h) * (1 + scale) + shift
