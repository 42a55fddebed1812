"""The denoiser of LVDM: a UNet over video latents whose layers work on space and on time in turn (section 3, figure 2).

Letters: b batch, c channels, t frames (as a shape) or diffusion time (as an argument), h w space, m mask, e embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lvdm.models.denoisers.conditioning import (
    check_condition,
    check_latent,
    times_per_frame,
    with_mask_channel,
)
from lvdm.models.denoisers.res_block import ResBlock
from lvdm.models.denoisers.text_attention import TextAttention
from lvdm.models.denoisers.unet_options import LayerOptions, check_options
from lvdm.models.layers.convolutions import Downsample, SpaceConv, Upsample
from lvdm.models.layers.embeddings import INDEX_PERIOD, NumberEmbedding, OptionalEmbedding, sinusoidal_features
from lvdm.models.layers.init import zero_init
from lvdm.models.layers.norms import GroupNorm32
from lvdm.rules import CHANNELS, LAYERS, integer, listed, require
from lvdm.types import Condition


class Stage(nn.Sequential):
    """Layers in a row, each given what it reads; with `checkpointing` their insides are computed again for the gradient."""

    def __init__(self, *layers: nn.Module, checkpointing: bool) -> None:
        super().__init__(*layers)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        for layer in self:
            extra = (emb,) if isinstance(layer, ResBlock) else (context,) if isinstance(layer, TextAttention) else ()
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, *extra, use_reentrant=False)
            else:
                x = layer(x, *extra)
        return x


class UNet3D(nn.Module):
    """forward(x (b, in_channels, t, h, w), t (b,) or (b, t), cond) -> (b, out_channels, t, h, w).

    Args:
        in_channels, out_channels: of the latent; the mask channel is not counted.
        model_channels: width of the first level; channel_mult: of each level, in multiples of it.
        num_res_blocks: per level on the way down (one more on the way up).
        attention_resolutions: down factors with attention in space, then in time. The middle always has attention.
        joint_attention_resolutions: down factors where one attention over all frames and pixels takes that place.
        num_heads: of every attention.
        temporal_length: largest distance in frames that relative positions tell apart.
        mask_channel: one more input channel, 1 on given frames.
        noise_level: how the level of given frames is told: "embedding" (published: an integer below num_noise_levels
            for the sample), "time" (those frames' own diffusion time), None (not).
        num_labels: classes; 0 = none. A negative label is no class.
        context_dim: width of the text features; needs text_attention.
        text_attention: the attention block of the text model, also usable without text; transformer_depth: blocks in it.
        scale_shift_norm: the embedding scales and shifts a norm instead of being added.
        relative_position: in attention over time.
        temporal_conv: a convolution over frames at the end of every residual block, zero at start.
        position_embedding: each frame is told its index in the window, zero at start.
        fps_embedding: the clip's frames per second are told; cond.fps is then required.
        dropout: in residual blocks and text attention.
        checkpointing: less memory in training for about a third more time.
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        model_channels: int = 256,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        num_res_blocks: int = 3,
        attention_resolutions: Sequence[int] = (8, 4, 2),
        num_heads: int = 4,
        temporal_length: int = 16,
        mask_channel: bool = False,
        noise_level: str | None = None,
        num_noise_levels: int = 251,
        num_labels: int = 0,
        context_dim: int | None = None,
        text_attention: bool = False,
        transformer_depth: int = 1,
        scale_shift_norm: bool = True,
        relative_position: bool = True,
        temporal_conv: bool = False,
        joint_attention_resolutions: Sequence[int] = (),
        position_embedding: bool = False,
        fps_embedding: bool = False,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require(CHANNELS, in_channels=in_channels, out_channels=out_channels, model_channels=model_channels)
        require(listed(integer(1, 64), 1, 16), channel_mult=channel_mult)
        require(LAYERS, num_res_blocks=num_res_blocks)
        require(integer(1, 10**6), num_noise_levels=num_noise_levels)
        require(integer(0, 10**6), num_labels=num_labels)
        self.in_channels, self.model_channels = in_channels, model_channels
        self.mask_channel, self.noise_level, self.num_labels = mask_channel, noise_level, num_labels
        self.context_dim, self.fps_embedding = context_dim, fps_embedding
        self.checkpointing, self.num_halvings = checkpointing, len(channel_mult) - 1
        width = 4 * model_channels
        options = LayerOptions(
            emb_channels=width,
            attention_resolutions=attention_resolutions,
            joint_attention_resolutions=joint_attention_resolutions,
            num_heads=num_heads,
            temporal_length=temporal_length,
            relative_position=relative_position,
            text_attention=text_attention,
            context_dim=context_dim,
            transformer_depth=transformer_depth,
            scale_shift_norm=scale_shift_norm,
            temporal_conv=temporal_conv,
            dropout=dropout,
        )
        check_options(options, levels=len(channel_mult), noise_level=noise_level, mask_channel=mask_channel)
        self.time_embed = NumberEmbedding(model_channels, width)
        self.label_emb = OptionalEmbedding(num_noise_levels, width) if noise_level == "embedding" else None
        self.class_emb = OptionalEmbedding(num_labels, width) if num_labels else None
        self.fps_embed = NumberEmbedding(model_channels, width, starts_at_zero=True) if fps_embedding else None
        self.position_embed = NumberEmbedding(model_channels, width, starts_at_zero=True) if position_embedding else None
        self._build(options, in_channels + mask_channel, out_channels, [model_channels * m for m in channel_mult], num_res_blocks)

    def _stage(self, *layers: nn.Module) -> Stage:
        return Stage(*layers, checkpointing=self.checkpointing)

    def _build(self, options: LayerOptions, in_channels: int, out_channels: int, widths: list[int], num_res_blocks: int) -> None:
        """The published layout: down, middle, up; every output of the way down is a skip of the way up."""
        channels, factor = self.model_channels, 1
        self.input_blocks = nn.ModuleList([self._stage(SpaceConv(in_channels, channels))])
        skips = [channels]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                self.input_blocks.append(self._stage(options.resblock(channels, width), *options.attention(width, factor)))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.input_blocks.append(self._stage(Downsample(channels)))
                skips.append(channels)
                factor *= 2
        self.middle_block = self._stage(
            options.resblock(channels, channels),
            *options.attention(channels, factor, always=True),
            options.resblock(channels, channels),
        )
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for block in range(num_res_blocks + 1):
                layers = [options.resblock(channels + skips.pop(), width), *options.attention(width, factor)]
                channels = width
                if level > 0 and block == num_res_blocks:
                    layers.append(Upsample(channels))
                    factor //= 2
                self.output_blocks.append(self._stage(*layers))
        assert not skips, "every skip is used once"
        self.out = nn.Sequential(GroupNorm32(channels), nn.SiLU(), zero_init(SpaceConv(channels, out_channels)))

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        cond = Condition() if cond is None else cond
        check_latent(x, channels=self.in_channels, factor=2**self.num_halvings)
        check_condition(
            cond,
            mask_channel=self.mask_channel,
            num_labels=self.num_labels,
            needs_context=self.context_dim is not None,
            needs_fps=self.fps_embedding,
        )
        emb = nn.functional.silu(self.embed(t, cond, frames=x.shape[2]))  # every block begins with it: once is enough
        h = with_mask_channel(x, cond.mask) if self.mask_channel else x
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

    def embed(self, t: Tensor, cond: Condition, *, frames: int) -> Tensor:
        """Time, and all else that is told about the sample or its frames: (b, t, e)."""
        t = times_per_frame(t, frames)
        if self.noise_level == "time":
            t = cond.frame_times(t)
        emb = self.time_embed(sinusoidal_features(t, self.model_channels))
        if self.label_emb is not None and cond.frame_noise is not None:
            emb = emb + self.label_emb(cond.frame_noise)[:, None]
        if self.class_emb is not None and cond.label is not None:
            emb = emb + self.class_emb(cond.label)[:, None]
        if self.fps_embed is not None:
            octaves = cond.fps.float().log2()
            emb = emb + self.fps_embed(sinusoidal_features(octaves, self.model_channels, max_period=INDEX_PERIOD))[:, None]
        if self.position_embed is not None:
            index = torch.arange(frames, device=t.device)
            emb = emb + self.position_embed(sinusoidal_features(index, self.model_channels, max_period=INDEX_PERIOD))
        return emb
