"""The options of UNet3D that decide its layers, checked: every one of them can take effect (LVDM section 3).

Letters: c channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lvdm.models.denoisers.factorized_attention import FactorizedAttention
from lvdm.models.denoisers.joint_attention import JointAttention
from lvdm.models.denoisers.res_block import ResBlock
from lvdm.models.denoisers.text_attention import TextAttention
from lvdm.rules import CHANNELS, LAYERS, number, one_of, optional, require
from lvdm.types import UserError


@dataclass(frozen=True)
class LayerOptions:
    """What the layers of one UNet share; `resblock` and `attention` make one of them."""

    emb_channels: int
    attention_resolutions: Sequence[int]
    joint_attention_resolutions: Sequence[int]
    num_heads: int
    temporal_length: int
    relative_position: bool
    text_attention: bool
    context_dim: int | None
    transformer_depth: int
    scale_shift_norm: bool
    temporal_conv: bool
    dropout: float

    def __post_init__(self) -> None:
        require(CHANNELS, num_heads=self.num_heads, temporal_length=self.temporal_length)
        require(optional(CHANNELS), context_dim=self.context_dim)
        require(LAYERS, transformer_depth=self.transformer_depth)
        require(number(0, 0.99), dropout=self.dropout)

    def resblock(self, channels: int, out_channels: int) -> ResBlock:
        return ResBlock(
            channels,
            self.emb_channels,
            out_channels,
            dropout=self.dropout,
            scale_shift_norm=self.scale_shift_norm,
            temporal_conv=self.temporal_conv,
        )

    def attention(self, channels: int, factor: int, *, always: bool = False) -> list[nn.Module]:
        """The attention that follows a ResBlock at this down factor: one or none (`always`: the middle has one in any case)."""
        is_joint = factor in self.joint_attention_resolutions
        if not (is_joint or factor in self.attention_resolutions or always):
            return []
        if channels % self.num_heads:
            raise UserError(f"{self.num_heads} heads do not divide {channels} channels; change num_heads or model_channels")
        if is_joint:
            return [JointAttention(channels, self.num_heads)]
        if self.text_attention:
            return [
                TextAttention(
                    channels,
                    self.num_heads,
                    depth=self.transformer_depth,
                    temporal_length=self.temporal_length,
                    relative_position=self.relative_position,
                    context_dim=self.context_dim,
                    dropout=self.dropout,
                )
            ]
        return [
            FactorizedAttention(
                channels, self.num_heads, temporal_length=self.temporal_length, relative_position=self.relative_position
            )
        ]


def check_options(options: LayerOptions, *, levels: int, noise_level: str | None, mask_channel: bool) -> None:
    """Refuse what would be read and have no effect."""
    factors = [2**level for level in range(levels)]
    for name in ("attention_resolutions", "joint_attention_resolutions"):
        unknown = sorted(set(getattr(options, name)) - set(factors))
        if unknown:
            raise UserError(f"{name} names the down factors {unknown[:8]}, this network has {factors}; leave out the others")
    require(optional(one_of("embedding", "time")), noise_level=noise_level)
    if noise_level is not None and not mask_channel:
        raise UserError(f"noise_level {noise_level!r} tells the level of given frames; it needs mask_channel: true")
    if options.context_dim is not None and not options.text_attention:
        raise UserError("context_dim is given but text_attention is off; set text_attention: true")
    if options.transformer_depth != 1 and not options.text_attention:
        raise UserError("transformer_depth belongs to text_attention, which is off; leave it at 1")
    if options.text_attention and options.joint_attention_resolutions:
        raise UserError("joint attention reads no text; leave joint_attention_resolutions empty with text_attention")
