"""Discriminators of an autoencoder's adversarial training: a logit for every patch of a video (LVDM section 3.1; pix2pix).

FrameDiscriminator and ClipDiscriminator are LVDM's and ours. StagedDiscriminator is PVDM's: it has wider padding and returns the
features of every stage too.

Letters: b batch, t frames, h w. Logits are above 0 for real patches, below for reconstructed ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from einops import rearrange
from torch import Tensor, nn

from lvdm.models.layers.convolutions import VolumeConv
from lvdm.rules import CHANNELS, integer, one_of, require
from lvdm.types import UserError

Norm = Literal["batch", "group", "none"]
Convolution = Callable[[int, int, int, bool], nn.Module]  # (in, out, stride, bias)


class FrameDiscriminator(nn.Module):
    """The published discriminator of single frames; patches are 70 pixels wide with three layers.

    Args:
        channels: width of the first convolution, doubled by each further one up to eight times.
        layers: convolutions that halve the sides.
        norm: "batch" as published; "group", which is independent of batch size and processes; or "none".
    """

    def __init__(self, *, channels: int = 64, layers: int = 3, norm: Norm = "batch") -> None:
        super().__init__()

        def convolution(a: int, b: int, stride: int, bias: bool) -> nn.Module:
            return nn.Conv2d(a, b, 4, stride, padding=1, bias=bias)

        self.main = _patch_network(convolution, nn.BatchNorm2d, channels, layers, norm)

    def forward(self, video: Tensor) -> Tensor:
        """(b, 3, t, h, w) -> (b t, 1, h', w')."""
        return self.main(rearrange(video, "b c t h w -> (b t) c h w"))


class ClipDiscriminator(nn.Module):
    """A discriminator of whole clips and their motion. Arguments as in `FrameDiscriminator`; time is halved with the sides."""

    def __init__(self, *, channels: int = 64, layers: int = 3, norm: Norm = "batch") -> None:
        super().__init__()

        def convolution(a: int, b: int, stride: int, bias: bool) -> nn.Module:
            return VolumeConv(a, b, (3, 4, 4), stride, padding=(1, 1, 1), bias=bias)

        self.main = _patch_network(convolution, nn.BatchNorm3d, channels, layers, norm)

    def forward(self, video: Tensor) -> Tensor:
        """(b, 3, t, h, w) -> (b, 1, t', h', w')."""
        return self.main(video)


class StagedDiscriminator(nn.Module):
    """PVDM's discriminator of frames or of whole clips, with the published names.

    Args:
        dims: 2 is a discriminator of single frames, 3 one of clips, which halves time with the sides.
        channels, layers, norm: as in `FrameDiscriminator`; "batch" as published.
    """

    def __init__(self, dims: int, *, channels: int = 64, layers: int = 3, norm: Norm = "batch") -> None:
        super().__init__()
        require(integer(2, 3), dims=dims)
        self.dims = dims
        kernel: type[nn.Conv2d | nn.Conv3d] = nn.Conv2d if dims == 2 else nn.Conv3d

        def convolution(a: int, b: int, stride: int, bias: bool) -> nn.Module:
            return kernel(a, b, 4, stride, padding=2)  # with a bias before a norm too, as published

        stages = _stages(convolution, nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d, channels, layers, norm)
        for number, parts in enumerate(stages):
            self.add_module(f"model{number}", nn.Sequential(*parts))

    def features(self, video: Tensor) -> list[Tensor]:
        """(b, 3, t, h, w) -> the output of every stage; the last one is the logits, (b t, 1, h', w') or (b, 1, t', h', w')."""
        outputs = [rearrange(video, "b c t h w -> (b t) c h w") if self.dims == 2 else video]
        for stage in self.children():
            outputs.append(stage(outputs[-1]))
        return outputs[1:]

    def forward(self, video: Tensor) -> Tensor:
        """Return the logits."""
        return self.features(video)[-1]


def _patch_network(
    convolution: Convolution, batch_norm: Callable[[int], nn.Module], channels: int, layers: int, norm: Norm
) -> nn.Sequential:
    return nn.Sequential(*(part for stage in _stages(convolution, batch_norm, channels, layers, norm) for part in stage))


def _stages(
    convolution: Convolution, batch_norm: Callable[[int], nn.Module], channels: int, layers: int, norm: Norm
) -> list[list[nn.Module]]:
    """Return a first convolution, `layers` - 1 that double, one that keeps the size, and one logit. Weights are N(0, .02)."""
    require(CHANNELS, channels=channels)
    require(integer(1, 16), layers=layers)
    require(one_of(*get_args(Norm)), norm=norm)
    widths = [channels * min(2**i, 8) for i in range(layers + 1)]
    if norm == "group" and any(width % min(32, width) for width in widths[1:]):
        raise UserError(f"channels is {channels}, expected widths up to 32 or multiples of it for norm group")
    stages: list[list[nn.Module]] = [[convolution(3, channels, 2, True), nn.LeakyReLU(0.2)]]
    for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
        stage = [convolution(before, after, 1 if i == layers - 1 else 2, norm != "batch")]
        if norm != "none":
            stage.append(batch_norm(after) if norm == "batch" else nn.GroupNorm(min(32, after), after))
        stages.append([*stage, nn.LeakyReLU(0.2)])
    stages.append([convolution(widths[-1], 1, 1, True)])
    for part in (part for stage in stages for part in stage):
        part.apply(_init_weights)
    return stages


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
        nn.init.normal_(module.weight, 1.0, 0.02)
