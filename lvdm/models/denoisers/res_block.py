"""Residual block of the UNet: convolutions in space, the embedding as scale and shift per frame, optionally a convolution
in time (LVDM section 3, figure 2).

Letters: b batch, c channels, t frames, h w space, e width of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lvdm.models.layers.convolutions import SpaceConv, TimeConv
from lvdm.models.layers.init import zero_init
from lvdm.models.layers.norms import GroupNorm32


def over_space(emb: Tensor) -> Tensor:
    """(b, t, c) -> (b, c, t, 1, 1), and (b, c) -> (b, c, 1, 1)."""
    return emb.movedim(-1, 1)[..., None, None]


class ResBlock(nn.Module):
    """x (b, c, t, h, w), emb (b, t, e) already through SiLU (once for all blocks) -> (b, out, t, h, w).

    With `temporal_conv`, the block ends in x + TimeConv(silu(GN(x))): kernel 3 over frames, zero at start. Its zero padding
    shows the network the ends of the window. With a `convolution` of images, x is (b, c, h, w) and emb (b, e). `resample` changes
    height and width, before the first convolution and in the skip.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        emb_channels: int,
        dropout: float,
        scale_shift_norm: bool,
        temporal_conv: bool = False,
        convolution: Callable[..., nn.Module] = SpaceConv,
        resample: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift_norm, self.resample = scale_shift_norm, resample
        emb_out = 2 * out_channels if scale_shift_norm else out_channels
        self.in_layers = nn.Sequential(GroupNorm32(channels), nn.SiLU(), convolution(channels, out_channels))
        self.emb_layers = nn.Sequential(nn.Identity(), nn.Linear(emb_channels, emb_out))
        self.out_layers = nn.Sequential(
            GroupNorm32(out_channels), nn.SiLU(), nn.Dropout(dropout), zero_init(convolution(out_channels, out_channels))
        )
        is_same = channels == out_channels
        self.skip_connection = nn.Identity() if is_same else convolution(channels, out_channels, kernel=1)
        self.time_layers = nn.Sequential(GroupNorm32(out_channels), nn.SiLU(), TimeConv(out_channels)) if temporal_conv else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[:2](x)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self._modulate(self.in_layers[2](h), over_space(self.emb_layers(emb).to(h.dtype)))
        h = self.skip_connection(x) + self.out_layers[1:](h)
        return h if self.time_layers is None else h + self.time_layers(h)

    def _modulate(self, h: Tensor, emb: Tensor) -> Tensor:
        norm = self.out_layers[0]
        if not self.scale_shift_norm:
            return norm(h + emb)
        scale, shift = emb.chunk(2, dim=1)
        return norm(h) * (1 + scale) + shift
