"""The denoiser of PVDM: one 2D UNet for three planes, with attention over all of them after every stage (section 3.2).

Letters: b batch, c channels, l locations of all planes, e embedding. A list of stacks is what `Planes.stack` returns: planes of
equal shape lie side by side in the batch, so that the layers run once for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.models.denoisers.condition_embedding import ConditionedDenoiser
from lvdm.models.denoisers.plane_attention import PlaneAttention
from lvdm.models.denoisers.res_block import ResBlock
from lvdm.models.denoisers.unet_layout import UNetLayers, build_unet, check_factors, check_heads, run
from lvdm.models.layers.convolutions import PlaneConv
from lvdm.models.layers.init import zero_init
from lvdm.models.layers.norms import GroupNorm32, layout_of
from lvdm.planes import Planes
from lvdm.rules import CHANNELS, LAYERS, integer, listed, number, require
from lvdm.types import Condition, DenoiserInputs, UserError

SIZES = listed(integer(1, 2**16), 3, 3)


class TriplaneUNet(ConditionedDenoiser):
    """forward(x (b, in_channels, l), t (b,), cond) -> (b, out_channels, l). The defaults are the published size, 528 M."""

    def __init__(
        self,
        planes: Sequence[int] = (16, 32, 32),  # frames, rows and columns of the latent
        in_channels: int = 4,  # of the latent; those of the previous clip are not counted
        out_channels: int = 4,
        model_channels: int = 256,  # width of the first level
        channel_mult: Sequence[int] = (1, 2, 4, 4),  # width of each level, in multiples of model_channels
        num_res_blocks: int = 2,  # of a level on the way down; one more on the way up
        attention_resolutions: Sequence[int] = (4, 2, 1),  # down factors with attention in a plane; the middle has it always
        num_heads: int = 8,  # of every attention
        previous: bool = True,  # takes the latent of the clip before, zeros if there is none
        num_labels: int = 0,  # classes; 0: none. A negative label is no class
        context_dim: int | None = None,  # width of the text features; every attention over all planes is followed by one to them
        fps_embedding: bool = False,  # embed the clip's frames per second; cond.fps is then required
        dropout: float = 0.0,  # in residual blocks and attention to text
        checkpointing: bool = False,  # less memory in training for about a third more time
    ) -> None:
        require(SIZES, planes=planes)
        require(CHANNELS, in_channels=in_channels, out_channels=out_channels, model_channels=model_channels, num_heads=num_heads)
        require(listed(integer(1, 64), 1, 16), channel_mult=channel_mult)
        require(LAYERS, num_res_blocks=num_res_blocks)
        require(number(0, 0.99), dropout=dropout)
        inputs = DenoiserInputs(num_labels=num_labels, context_dim=context_dim, fps=fps_embedding, previous=previous)
        width, num_halvings = 4 * model_channels, len(channel_mult) - 1
        super().__init__(inputs, features=model_channels, width=width)
        self.planes, self.in_channels, self.checkpointing = Planes(*planes), in_channels, checkpointing
        self.levels = [self.planes.shrunk(2**level) for level in range(num_halvings + 1)]
        check_factors(num_halvings, attention_resolutions=attention_resolutions)
        block = partial(ResBlock, emb_channels=width, dropout=dropout, scale_shift_norm=True, convolution=PlaneConv)
        half, double = partial(F.avg_pool2d, kernel_size=2), partial(F.interpolate, scale_factor=2.0, mode="nearest")
        attention = partial(PlaneAttention, num_heads=num_heads)
        layers = UNetLayers(
            convolution=PlaneConv,
            resblock=block,
            down=lambda channels: block(channels, channels, resample=half),
            up=lambda channels: block(channels, channels, resample=double),
            attention=dict.fromkeys(attention_resolutions, attention),
            middle_attention=attention,
            num_heads=num_heads,
            checkpointing=checkpointing,
        )
        widths = [model_channels * m for m in channel_mult]
        blocks = build_unet(layers, in_channels * (1 + previous), widths, model_channels, num_res_blocks)
        self.input_blocks, self.middle_block, self.output_blocks = blocks.down, blocks.middle, blocks.up

        def across(channels: int) -> PlaneAttention:
            check_heads(num_heads, channels)
            return attention(channels, context_dim=context_dim, dropout=dropout)

        self.input_attns = nn.ModuleList([nn.Identity(), *map(across, blocks.down_widths[1:])])
        self.mid_attn = across(widths[-1])
        self.output_attns = nn.ModuleList(map(across, blocks.up_widths))
        self.out = nn.Sequential(GroupNorm32(widths[0]), nn.SiLU(), zero_init(PlaneConv(widths[0], out_channels)))

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        cond = self.checked(cond)
        emb = F.silu(self.embed(t, cond, frames=1))[:, 0]  # (b, e), once for all blocks, which begin with it
        context = None if cond.context is None else cond.context.to(emb.dtype)
        h = self._with_previous(x, cond).to(emb.dtype)
        stacks = [each.contiguous(memory_format=layout_of(each)) for each in self.planes.stack(h)]
        embs = [emb.repeat(k, 1) for k in self.planes.stacks]
        skips = []
        for stage, across in zip(self.input_blocks, self.input_attns, strict=True):
            stacks = _through(stage, stacks, embs)
            stacks = stacks if isinstance(across, nn.Identity) else self._across(across, stacks, context)
            skips.append(stacks)
        stacks = self._across(self.mid_attn, _through(self.middle_block, stacks, embs), context)
        for stage, across in zip(self.output_blocks, self.output_attns, strict=True):
            stacks = [torch.cat([h, skip], dim=1) for h, skip in zip(stacks, skips.pop(), strict=True)]
            stacks = self._across(across, _through(stage, stacks, embs), context)
        return self.planes.unstack([self.out(h) for h in stacks]).to(x.dtype)

    def _with_previous(self, x: Tensor, cond: Condition) -> Tensor:
        """Return [x, the previous clip] on channels; a clip without a previous one has zeros there, as published."""
        if x.ndim != 3 or x.shape[1] != self.in_channels:
            raise UserError(f"the latent is {tuple(x.shape)}, this network takes (b, {self.in_channels}, {self.planes.length})")
        if not self.inputs.previous:
            return x
        previous = torch.zeros_like(x) if cond.previous is None else cond.previous.to(x.dtype)
        if previous.shape != x.shape:
            raise UserError(f"the previous clip is {tuple(previous.shape)}, expected the shape of the latent, {tuple(x.shape)}")
        return torch.cat([x, previous], dim=1)

    def _across(self, attention: nn.Module, stacks: list[Tensor], context: Tensor | None) -> list[Tensor]:
        """Attention over the locations of all planes."""
        planes = next(level for level in self.levels if level.shapes[0] == stacks[0].shape[2:])
        tokens = run(attention, planes.unstack(stacks), context, checkpointing=self.checkpointing)
        return planes.stack(tokens)


def _through(stage: nn.Module, stacks: list[Tensor], embs: list[Tensor]) -> list[Tensor]:
    return [stage(h, emb, None) for h, emb in zip(stacks, embs, strict=True)]
