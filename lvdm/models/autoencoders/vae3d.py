"""The published 3D convolutional video autoencoder (LVDM, sec. 3.1), with the published parameter names and outputs.

Letters: b batch, c channels, t frames, h w; z latent; k kernel, s stride.
Added here: `norm="frame"`, which makes decoding local in time, and gradient checkpointing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lvdm.models.autoencoders.posterior import Posterior, check_video_shape
from lvdm.rules import CHANNELS, integer, listed, one_of, optional, require
from lvdm.types import UserError

NORMS = ("clip", "frame")
Stride = tuple[int, int, int]


class VAE3D(nn.Module):
    """The published autoencoder; the defaults are its published size, 19.4 M parameters.

    Args:
        channels: width of the first convolution; doubled at every halving.
        downsample: total factors in time, height and width, powers of two.
        latent_channels: channels of the latent (published name: embed_dim).
        embed_dim: channels between the convolutions and the 1x1 maps around the latent (published name: z_channels);
            None is latent_channels.
        norm: "clip", GroupNorm over all frames of a clip at once, as published; or "frame", over each frame alone, so that a long
            latent can be decoded in windows exactly.
        checkpointing: recompute blocks in the backward pass: less memory, more time, the same gradients.
    """

    def __init__(
        self,
        channels: int = 32,
        downsample: Sequence[int] = (4, 8, 8),
        latent_channels: int = 4,
        embed_dim: int | None = None,
        norm: str = "clip",
        *,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require(CHANNELS, channels=channels, latent_channels=latent_channels)
        require(optional(CHANNELS), embed_dim=embed_dim)
        strides = _strides(downsample)
        require(one_of(*NORMS), norm=norm)
        z_channels = latent_channels if embed_dim is None else embed_dim
        self.latent_channels = latent_channels
        self.temporal_factor, self.spatial_factor = downsample[0], downsample[1]
        self.decode_halo = _halo([s[0] for s in strides]) if norm == "frame" else None
        self.settings = {"downsample": list(downsample), "norm": norm}
        self.encoder = Encoder(channels, strides, z_channels, norm, checkpointing=checkpointing)
        self.decoder = Decoder(channels, strides, z_channels, norm, checkpointing=checkpointing)
        self.quant_conv = SameConv(2 * z_channels, 2 * latent_channels, 1)
        self.post_quant_conv = SameConv(latent_channels, z_channels, 1)

    @property
    def last_layer(self) -> Tensor:
        """Return the weights of the pixels; the weight of the adversarial loss is measured there."""
        return self.decoder.conv_out.conv.weight

    def encode(self, video: Tensor) -> Posterior:
        """Video (b, 3, t, h, w) -> posterior over (b, c, t/f_t, h/f_s, w/f_s)."""
        check_video_shape(video.shape, temporal_factor=self.temporal_factor, spatial_factor=self.spatial_factor)
        return Posterior.from_moments(self.quant_conv(self.encoder(video)))

    def decode(self, latent: Tensor) -> Tensor:
        """Latent (b, c, t, h, w) -> video (b, 3, t f_t, h f_s, w f_s)."""
        return self.decoder(self.post_quant_conv(latent))


def _strides(downsample: Sequence[int]) -> list[Stride]:
    """Return the stride of each block, 2 on the axes with halvings left: (4, 8, 8) -> (2,2,2), (2,2,2), (1,2,2)."""
    require(listed(integer(1, 256), 3, 3), downsample=downsample)
    if any(f & (f - 1) for f in downsample) or downsample[1] != downsample[2] or max(downsample) == 1:
        expected = "three powers of two, the last two equal and not all 1, e.g. [4, 8, 8]"
        raise UserError(f"downsample is {list(downsample)}, expected {expected}")
    time, height, width = (f.bit_length() - 1 for f in downsample)  # halvings
    return [(1 + (i < time), 1 + (i < height), 1 + (i < width)) for i in range(max(time, height))]


def _halo(time_strides: Sequence[int]) -> int:
    """Return how many latents away a frame depends on, following the decoder's layers back from the frames of latent 0."""
    low, high = 0, math.prod(time_strides) - 1  # the frames of latent 0
    low, high = low - 1, high + 1  # conv_out, k3
    for s in reversed(time_strides):
        low, high = low - 4, high + 4  # two residual blocks of two k3 convolutions
        front, _ = _same_padding(4, s)
        low = -((-low) // s) - front  # transposed k4: output o is fed by inputs i with 0 <= o + 3 - s (i + front) <= 3
        high = (high + 3) // s - front
    return max(-low, high)


def _same_padding(kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding before and after: kernel - stride in all, the odd one before."""
    total = kernel - stride
    return total - total // 2, total // 2


def _pad(x: Tensor, kernel: int, stride: Sequence[int]) -> Tensor:
    """Replicate the border so that the convolution's output has exactly 1/stride of the input's size."""
    sides = [side for s in reversed(stride) for side in _same_padding(kernel, s)]
    return F.pad(x, sides, mode="replicate") if any(sides) else x


class SameConv(nn.Module):
    """Convolution after replicated padding."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: Stride = (1, 1, 1)) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_pad(x, self.conv.kernel_size[0], self.conv.stride))


class SameConvTranspose(nn.Module):
    """Transposed convolution after replicated padding; its own padding removes what the border made."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: Stride) -> None:
        super().__init__()
        self.convt = nn.ConvTranspose3d(in_channels, out_channels, kernel, stride, padding=kernel - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convt(_pad(x, self.convt.kernel_size[0], self.convt.stride))


class FrameGroupNorm(nn.GroupNorm):
    """GroupNorm over each frame alone."""

    def forward(self, x: Tensor) -> Tensor:
        frames = super().forward(rearrange(x, "b c t h w -> (b t) c h w"))
        return rearrange(frames, "(b t) c h w -> b c t h w", b=x.shape[0])


def _norm(channels: int, norm: str) -> nn.GroupNorm:
    if channels % 32:
        raise UserError(f"GroupNorm's 32 groups do not divide {channels} channels; give a first width that is a multiple of 16")
    return (FrameGroupNorm if norm == "frame" else nn.GroupNorm)(32, channels, eps=1e-6)


class Res(nn.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x))))))."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.norm1 = _norm(channels, norm)
        self.conv1 = SameConv(channels, channels)
        self.norm2 = _norm(channels, norm)
        self.conv2 = SameConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class DownBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: Stride, norm: str) -> None:
        super().__init__()
        self.down = SameConv(in_channels, out_channels, 4, stride)
        self.res = Res(out_channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.res(self.down(x))


class UpBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: Stride, norm: str) -> None:
        super().__init__()
        self.up = SameConvTranspose(in_channels, out_channels, 4, stride)
        self.res1 = Res(out_channels, norm)
        self.res2 = Res(out_channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.res2(self.res1(self.up(x)))


class Encoder(nn.Module):
    """Video -> (b, 2 z_channels, t/f_t, h/f_s, w/f_s)."""

    def __init__(self, channels: int, strides: Sequence[Stride], z_channels: int, norm: str, *, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.conv_first = SameConv(3, channels)
        self.conv_blocks = nn.ModuleList(
            DownBlock(channels * 2**i, channels * 2 ** (i + 1), stride, norm) for i, stride in enumerate(strides)
        )
        width = channels * 2 ** len(strides)
        self.final_block = nn.Sequential(_norm(width, norm), nn.SiLU(), SameConv(width, 2 * z_channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)
        for block in self.conv_blocks:
            x = _run(block, x, recompute=self.checkpointing and self.training)
        return self.final_block(x)


class Decoder(nn.Module):
    """(b, z_channels, t, h, w) -> video; time doubles in the first blocks."""

    def __init__(self, channels: int, strides: Sequence[Stride], z_channels: int, norm: str, *, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        widths = [channels * 2**i for i in range(len(strides), 0, -1)]
        self.conv_blocks = nn.ModuleList(
            UpBlock(before, width, stride, norm)
            for before, width, stride in zip([z_channels, *widths], widths, strides, strict=False)
        )
        self.conv_out = SameConv(widths[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.conv_blocks:
            x = _run(block, x, recompute=self.checkpointing and self.training)
        return self.conv_out(x)


def _run(block: Callable[[Tensor], Tensor], x: Tensor, *, recompute: bool) -> Tensor:
    return checkpoint(block, x, use_reentrant=False) if recompute else block(x)
