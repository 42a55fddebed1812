"""Convolutions over space alone and over time alone, as 2D convolutions (LVDM section 3, "factorized"), and over both.

Letters: b batch, c channels, t frames, h w space.
Every volume is (b, c, t, h, w). In memory format channels_last_3d the reshapes here are views and a 2D convolution sees
channels-last images; any other format gives the same numbers after a copy.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.models.layers.init import zero_init


def frames_as_batch(x: Tensor) -> Tensor:
    """(b, c, t, h, w) -> (b t, c, h, w)."""
    return x.transpose(1, 2).flatten(0, 1)


def batch_as_frames(x: Tensor, batch: int) -> Tensor:
    """(b t, c, h, w) -> (b, c, t, h, w)."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


class SpaceConv(nn.Conv3d):
    """Conv3d with kernel (1, k, k), computed as a 2D convolution of each frame; weight (out, in, 1, k, k) as published."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1) -> None:
        pad = kernel // 2
        super().__init__(in_channels, out_channels, (1, kernel, kernel), (1, stride, stride), (0, pad, pad))

    def forward(self, x: Tensor) -> Tensor:
        frames = frames_as_batch(x)
        out = F.conv2d(frames, self.weight.squeeze(2), self.bias, self.stride[1:], self.padding[1:])
        return batch_as_frames(out, x.shape[0])


class TimeConv(nn.Conv3d):
    """Conv3d with kernel (3, 1, 1), zero padding at both ends (which marks them), weights zero at start."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        zero_init(self)

    def forward(self, x: Tensor) -> Tensor:
        columns = x.flatten(3)  # (b, c, t, h w)
        return F.conv2d(columns, self.weight.squeeze(4), self.bias, padding=(1, 0)).unflatten(3, x.shape[3:])


class PlaneConv(nn.Conv2d):
    """Conv2d of images (b, c, h, w) that keeps their size."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)


class VolumeConv(nn.Conv3d):
    """Conv3d that pads two frames by itself. A CPU's bf16 convolution that pads them leaves parts of the weight's gradient
    unwritten, which is random memory (PyTorch 2.15, docs/log.md)."""

    padding: tuple[int, int, int]

    def forward(self, x: Tensor) -> Tensor:
        ends, rows, columns = self.padding
        if x.shape[2] != 2 or ends == 0:
            return super().forward(x)
        return F.conv3d(F.pad(x, (0, 0, 0, 0, ends, ends)), self.weight, self.bias, self.stride, (0, rows, columns))


class Downsample(nn.Module):
    """Halve height and width by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = SpaceConv(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width by nearest neighbours, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = SpaceConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        frames = F.interpolate(frames_as_batch(x), scale_factor=2.0, mode="nearest")
        return self.conv(batch_as_frames(frames, x.shape[0]))
