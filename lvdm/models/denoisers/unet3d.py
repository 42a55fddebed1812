"""The denoiser of LVDM: a UNet over video latents whose layers work on space and on time in turn (section 3, figure 2).

Letters: b batch, c channels, t frames (as a shape) or diffusion time (as an argument), h w space, m mask, e embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lvdm.models.denoisers.condition_embedding import ConditionedDenoiser, check_latent, with_mask_channel
from lvdm.models.denoisers.factorized_attention import FactorizedAttention
from lvdm.models.denoisers.joint_attention import JointAttention
from lvdm.models.denoisers.res_block import ResBlock
from lvdm.models.denoisers.text_attention import TextAttention
from lvdm.models.denoisers.unet_layout import UNetLayers, build_unet, check_factors
from lvdm.models.layers.convolutions import Downsample, SpaceConv, Upsample
from lvdm.models.layers.init import zero_init
from lvdm.models.layers.norms import GroupNorm32
from lvdm.rules import CHANNELS, LAYERS, integer, listed, number, require
from lvdm.types import Condition, DenoiserInputs, UserError


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
        joint_factors = {"joint_attention_resolutions": joint_attention_resolutions}
        check_factors(self.num_halvings, attention_resolutions=attention_resolutions, **joint_factors)
        _check_text(text_attention, context_dim, transformer_depth, joint_attention_resolutions)
        over_time: dict[str, Any] = {"num_heads": num_heads, "temporal_length": temporal_length}
        over_time["relative_position"] = relative_position
        text: dict[str, Any] = {"depth": transformer_depth, "context_dim": context_dim, "dropout": dropout}
        block: dict[str, Any] = {"scale_shift_norm": scale_shift_norm, "temporal_conv": temporal_conv, "dropout": dropout}
        plain = partial(TextAttention, **over_time, **text) if text_attention else partial(FactorizedAttention, **over_time)
        joint = partial(JointAttention, num_heads=num_heads)
        by_factor = {**dict.fromkeys(attention_resolutions, plain), **dict.fromkeys(joint_attention_resolutions, joint)}
        middle = by_factor.get(2**self.num_halvings, plain)
        resblock = partial(ResBlock, emb_channels=width, **block)
        layers = UNetLayers(SpaceConv, resblock, Downsample, Upsample, by_factor, middle, num_heads, checkpointing)
        widths = [model_channels * m for m in channel_mult]
        blocks = build_unet(layers, in_channels + mask_channel, widths, model_channels, num_res_blocks)
        self.input_blocks, self.middle_block, self.output_blocks = blocks.down, blocks.middle, blocks.up
        self.out = nn.Sequential(GroupNorm32(widths[0]), nn.SiLU(), zero_init(SpaceConv(widths[0], out_channels)))

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


def _check_text(text_attention: bool, context_dim: int | None, depth: int, joint: Sequence[int]) -> None:
    """Refuse options that would have no effect."""
    if context_dim is not None and not text_attention:
        raise UserError("context_dim is given but text_attention is off; set text_attention: true")
    if depth != 1 and not text_attention:
        raise UserError("transformer_depth belongs to text_attention, which is off; leave it at 1")
    if text_attention and joint:
        raise UserError("joint attention takes no text; leave joint_attention_resolutions empty with text_attention")
