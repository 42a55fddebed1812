"""The layout that the UNets share: a way down, a middle and a way up with skips (LVDM figure 2; Dhariwal & Nichol 2021)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lvdm.models.denoisers.res_block import ResBlock
from lvdm.models.denoisers.text_attention import TextAttention
from lvdm.types import UserError


def run(layer: Callable[..., Tensor], *inputs: Any, checkpointing: bool) -> Tensor:
    """Return layer(*inputs). `checkpointing` computes its insides again for the gradient."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)


class Stage(nn.Module):
    """Layers in a row, each with the inputs that it takes."""

    def __init__(self, *layers: nn.Module, checkpointing: bool) -> None:
        super().__init__()
        for i, layer in enumerate(layers):
            self.add_module(str(i), layer)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        for layer in self.children():
            extra = (emb,) if isinstance(layer, ResBlock) else (context,) if isinstance(layer, TextAttention) else ()
            x = run(layer, x, *extra, checkpointing=self.checkpointing)
        return x


@dataclass(frozen=True)
class UNetLayers:
    """The layers of one UNet: each function makes one for a number of channels."""

    convolution: Callable[[int, int], nn.Module]  # the first layer
    resblock: Callable[[int, int], nn.Module]
    down: Callable[[int], nn.Module]
    up: Callable[[int], nn.Module]
    attention: Mapping[int, Callable[[int], nn.Module]]  # by down factor: what follows each ResBlock there
    middle_attention: Callable[[int], nn.Module]
    num_heads: int
    checkpointing: bool

    def stage(self, *layers: nn.Module) -> Stage:
        return Stage(*layers, checkpointing=self.checkpointing)

    def attention_at(self, factor: int, channels: int) -> list[nn.Module]:
        """Return the attention that follows a ResBlock at this down factor: one or none."""
        if factor not in self.attention:
            return []
        check_heads(self.num_heads, channels)
        return [self.attention[factor](channels)]


@dataclass(frozen=True)
class UNetBlocks:
    """The stages of a UNet. Every output of the way down is a skip of the way up."""

    down: nn.ModuleList
    middle: Stage
    up: nn.ModuleList
    down_widths: Sequence[int]  # channels after each stage
    up_widths: Sequence[int]


def build_unet(layers: UNetLayers, in_channels: int, widths: Sequence[int], first: int, num_res_blocks: int) -> UNetBlocks:
    """Build the published layout, whose first convolution has `first` channels and whose levels have `widths`."""
    channels, factor = first, 1
    down = nn.ModuleList([layers.stage(layers.convolution(in_channels, channels))])
    down_widths = [channels]
    for level, width in enumerate(widths):
        for _ in range(num_res_blocks):
            down.append(layers.stage(layers.resblock(channels, width), *layers.attention_at(factor, width)))
            channels = width
            down_widths.append(channels)
        if level < len(widths) - 1:
            down.append(layers.stage(layers.down(channels)))
            down_widths.append(channels)
            factor *= 2
    check_heads(layers.num_heads, channels)
    blocks = (layers.resblock(channels, channels), layers.middle_attention(channels), layers.resblock(channels, channels))
    middle = layers.stage(*blocks)
    up, up_widths, skips = nn.ModuleList(), [], list(down_widths)
    for level, width in reversed(list(enumerate(widths))):
        for index in range(num_res_blocks + 1):
            stage = [layers.resblock(channels + skips.pop(), width), *layers.attention_at(factor, width)]
            channels = width
            if level > 0 and index == num_res_blocks:
                stage.append(layers.up(channels))
                factor //= 2
            up.append(layers.stage(*stage))
            up_widths.append(channels)
    assert not skips, "every skip is used once"
    return UNetBlocks(down, middle, up, down_widths, up_widths)


def check_heads(num_heads: int, channels: int) -> None:
    """Refuse heads that do not divide the channels of an attention."""
    if channels % num_heads:
        raise UserError(f"{num_heads} heads do not divide {channels} channels; change num_heads or model_channels")


def check_factors(num_halvings: int, **given: Sequence[int]) -> None:
    """Refuse down factors that a network with so many halvings does not have."""
    factors = [2**level for level in range(num_halvings + 1)]
    for name, named in given.items():
        unknown = sorted(set(named) - set(factors))
        if unknown:
            raise UserError(f"{name} names the down factors {unknown[:8]}, this network has {factors}; leave out the others")
