"""The denoiser of LVDM: a UNet over video latents whose layers work on space and on time in turn (section 3, figure 2).

Letters: b batch, c channels, t frames (as a shape) or diffusion time (as an argument), h w space, m mask, e embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lvdm.models.denoisers.condition_embedding import ConditionedDenoiser, check_latent, with_mask_channel
from lvdm.models.denoisers.factorized_attention import FactorizedAttention
from lvdm.models.denoisers.joint_attention import JointAttention
from lvdm.models.denoisers.res_block import ResBlock
from lvdm.models.denoisers.text_attention import TextAttention
from lvdm.models.layers.convolutions import Downsample, SpaceConv, Upsample
from lvdm.models.layers.init import zero_init
from lvdm.models.layers.norms import GroupNorm32
from lvdm.rules import CHANNELS, LAYERS, integer, listed, number, require
from lvdm.types import Condition, DenoiserInputs, UserError


class Stage(nn.Module):
    """Layers in a row, each with the inputs that it takes. `checkpointing` computes their insides again for the gradient."""

    def __init__(self, *layers: nn.Module, checkpointing: bool) -> None:
        super().__init__()
        for i, layer in enumerate(layers):
            self.add_module(str(i), layer)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        for layer in self.children():
            extra = (emb,) if isinstance(layer, ResBlock) else (context,) if isinstance(layer, TextAttention) else ()
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, *extra, use_reentrant=False)
            else:
                x = layer(x, *extra)
        return x


@dataclass(frozen=True)
class _Layers:
    """The layers of one UNet: each function makes one for a number of channels."""

    resblock: Callable[..., nn.Module]
    plain: Callable[[int], nn.Module]  # attention at the plain factors and in the middle
    joint: Callable[[int], nn.Module]  # attention at the joint factors
    num_heads: int
    plain_factors: Sequence[int]
    joint_factors: Sequence[int]

    def attention(self, channels: int, factor: int, *, always: bool = False) -> list[nn.Module]:
        """Return the attention that follows a ResBlock at this down factor: one or none. With `always` it is one."""
        if not (always or factor in self.plain_factors or factor in self.joint_factors):
            return []
        if channels % self.num_heads:
            raise UserError(f"{self.num_heads} heads do not divide {channels} channels; change num_heads or model_channels")
        return [(self.joint if factor in self.joint_factors else self.plain)(channels)]


class UNet3D(ConditionedDenoiser):
    """forward(x (b, in_channels, t, h, w), t (b,) or (b, t), cond) -> (b, out_channels, t, h, w)."""

    def __init__(
        self,
        in_channels: int = 4,  # of the latent; the mask channel is not counted
        out_channels: int = 4,
        model_channels: int = 256,  # width of the first level
        channel_mult: Sequence[int] = (1, 2, 3, 4),  # width of each level, in multiples of model_channels
        num_res_blocks: int = 3,  # of a level on the way down; one more on the way up
        attention_resolutions: Sequence[int] = (8, 4, 2),  # down factors with attention; the middle has it always
        num_heads: int = 4,  # of every attention
        temporal_length: int = 16,  # largest distance in frames that relative positions distinguish
        mask_channel: bool = False,  # one more input channel, 1 on given frames
        noise_level: str | None = None,  # of given frames: "embedding" (published), "time" (their own diffusion time) or None
        num_noise_levels: int = 251,  # with "embedding": levels are below this number
        num_labels: int = 0,  # classes; 0: none. A negative label is no class
        context_dim: int | None = None,  # width of the text features; needs text_attention
        text_attention: bool = False,  # the attention block of the text model; works without text too
        transformer_depth: int = 1,  # blocks in each text attention
        scale_shift_norm: bool = True,  # the embedding scales and shifts a norm instead of being added
        relative_position: bool = True,  # in attention over time
        temporal_conv: bool = False,  # a convolution over frames at the end of every residual block, zero at start
        joint_attention_resolutions: Sequence[int] = (),  # down factors with one attention over all frames and pixels instead
        position_embedding: bool = False,  # embed each frame's index in the window, zero at start
        fps_embedding: bool = False,  # embed the clip's frames per second; cond.fps is then required
        dropout: float = 0.0,  # in residual blocks and text attention
        checkpointing: bool = False,  # less memory in training for about a third more time
    ) -> None:
        require(CHANNELS, in_channels=in_channels, out_channels=out_channels, model_channels=model_channels)
        require(CHANNELS, num_heads=num_heads, temporal_length=temporal_length)
        require(listed(integer(1, 64), 1, 16), channel_mult=channel_mult)
        require(LAYERS, num_res_blocks=num_res_blocks, transformer_depth=transformer_depth)
        require(number(0, 0.99), dropout=dropout)
        levels = num_noise_levels if noise_level == "embedding" else None
        inputs = DenoiserInputs(mask_channel, noise_level, levels, num_labels, context_dim, fps_embedding)
        width = 4 * model_channels
        super().__init__(inputs, features=model_channels, width=width, position_embedding=position_embedding)
        self.in_channels, self.model_channels, self.checkpointing = in_channels, model_channels, checkpointing
        self.num_halvings = len(channel_mult) - 1
        _check_factors(self.num_halvings, attention_resolutions, joint_attention_resolutions)
        _check_text(text_attention, context_dim, transformer_depth, joint_attention_resolutions)
        over_time: dict[str, Any] = {"num_heads": num_heads, "temporal_length": temporal_length}
        over_time["relative_position"] = relative_position
        text: dict[str, Any] = {"depth": transformer_depth, "context_dim": context_dim, "dropout": dropout}
        block: dict[str, Any] = {"scale_shift_norm": scale_shift_norm, "temporal_conv": temporal_conv, "dropout": dropout}
        layers = _Layers(
            resblock=partial(ResBlock, emb_channels=width, **block),
            plain=partial(TextAttention, **over_time, **text) if text_attention else partial(FactorizedAttention, **over_time),
            joint=partial(JointAttention, num_heads=num_heads),
            num_heads=num_heads,
            plain_factors=tuple(attention_resolutions),
            joint_factors=tuple(joint_attention_resolutions),
        )
        self._build(layers, in_channels + mask_channel, out_channels, [model_channels * m for m in channel_mult], num_res_blocks)

    def _stage(self, *layers: nn.Module) -> Stage:
        return Stage(*layers, checkpointing=self.checkpointing)

    def _build(self, layers: _Layers, in_channels: int, out_channels: int, widths: list[int], num_res_blocks: int) -> None:
        """Build the published layout: down, middle, up. Every output of the way down is a skip of the way up."""
        channels, factor = self.model_channels, 1
        self.input_blocks = nn.ModuleList([self._stage(SpaceConv(in_channels, channels))])
        skips = [channels]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                block = layers.resblock(channels, out_channels=width)
                self.input_blocks.append(self._stage(block, *layers.attention(width, factor)))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.input_blocks.append(self._stage(Downsample(channels)))
                skips.append(channels)
                factor *= 2
        self.middle_block = self._stage(
            layers.resblock(channels, out_channels=channels),
            *layers.attention(channels, factor, always=True),
            layers.resblock(channels, out_channels=channels),
        )
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for index in range(num_res_blocks + 1):
                stage = [layers.resblock(channels + skips.pop(), out_channels=width), *layers.attention(width, factor)]
                channels = width
                if level > 0 and index == num_res_blocks:
                    stage.append(Upsample(channels))
                    factor //= 2
                self.output_blocks.append(self._stage(*stage))
        assert not skips, "every skip is used once"
        self.out = nn.Sequential(GroupNorm32(channels), nn.SiLU(), zero_init(SpaceConv(channels, out_channels)))

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        check_latent(x, channels=self.in_channels, multiple=2**self.num_halvings)
        cond = self.checked(cond)
        emb = nn.functional.silu(self.embed(t, cond, frames=x.shape[2]))  # once for all blocks, which begin with it
        h = with_mask_channel(x, cond.mask) if self.inputs.mask else x
        h = h.to(emb.dtype, memory_format=torch.channels_last_3d)
        context = None if cond.context is None else cond.context.to(emb.dtype)
        skips = []
        for stage in self.input_blocks:
            h = stage(h, emb, context)
            skips.append(h)
        h = self.middle_block(h, emb, context)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb, context)
        return self.out(h).to(x.dtype).contiguous()


def _check_factors(num_halvings: int, plain: Sequence[int], joint: Sequence[int]) -> None:
    factors = [2**level for level in range(num_halvings + 1)]
    for name, given in (("attention_resolutions", plain), ("joint_attention_resolutions", joint)):
        unknown = sorted(set(given) - set(factors))
        if unknown:
            raise UserError(f"{name} names the down factors {unknown[:8]}, this network has {factors}; leave out the others")


def _check_text(text_attention: bool, context_dim: int | None, depth: int, joint: Sequence[int]) -> None:
    """Refuse options that would have no effect."""
    if context_dim is not None and not text_attention:
        raise UserError("context_dim is given but text_attention is off; set text_attention: true")
    if depth != 1 and not text_attention:
        raise UserError("transformer_depth belongs to text_attention, which is off; leave it at 1")
    if text_attention and joint:
        raise UserError("joint attention takes no text; leave joint_attention_resolutions empty with text_attention")
