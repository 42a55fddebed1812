"""A light video autoencoder that starts with patches, for small budgets (not in LVDM).

Space-to-depth replaces strided convolutions, so every convolution runs at low resolution; a block is a spatial 3x3 and a temporal
convolution of 3 (zero at start, hence the identity), each after LayerNorm over channels and SiLU, with a residual around both.
Norms see one position alone, so a latent's frames depend on `decode_halo` neighbours on each side only.

Activations lie as (b, t, h, w, c): LayerNorm, patching and 1x1 maps work on the last axis, and both convolutions see
channels-last memory through a permuted view. Measured fastest of seven layouts on a CPU (docs/benchmarks.md).
Letters: b batch, c channels, t frames, h w; i j k frames, rows, columns inside a patch; z latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lvdm.models.autoencoders.posterior import Posterior, check_video_shape
from lvdm.models.layers.convolutions import VolumeConv
from lvdm.models.layers.init import zero_init
from lvdm.rules import CHANNELS, LAYERS, integer, listed, require
from lvdm.types import UserError


class PatchVAE3D(nn.Module):
    """A light autoencoder that starts with patches; the defaults have 0.55 M parameters, factor 4 in time and 8 in space.

    Args:
        channels: width of each level, beginning at the pixels.
        patches: (frames, rows, columns) folded into channels on entering each level.
        blocks: residual blocks in each level, in the encoder and in the decoder.
        latent_channels: channels of the latent.
        checkpointing: recompute blocks in the backward pass: less memory, more time, the same gradients.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 96),
        patches: Sequence[Sequence[int]] = ((2, 4, 4), (2, 2, 2)),
        *,
        blocks: int = 2,
        latent_channels: int = 4,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check_levels(channels, patches)
        require(LAYERS, blocks=blocks)
        require(CHANNELS, latent_channels=latent_channels)
        self.latent_channels = latent_channels
        self.temporal_factor = math.prod(frames for frames, _, _ in patches)
        self.spatial_factor = math.prod(rows for _, rows, _ in patches)
        self.settings = {"patches": [list(patch) for patch in patches]}
        self.decode_halo = _halo([frames for frames, _, _ in patches], blocks)
        widths = [3, *channels]
        self.down = nn.ModuleList(
            Level(FoldPatch(widths[i], widths[i + 1], patch), widths[i + 1], blocks, checkpointing=checkpointing)
            for i, patch in enumerate(patches)
        )
        self.moments = nn.Linear(channels[-1], 2 * latent_channels)
        self.enter = nn.Linear(latent_channels, channels[-1])
        self.up = nn.ModuleList(
            Level(UnfoldPatch(widths[i + 1], widths[i], patch), widths[i + 1], blocks, checkpointing=checkpointing)
            for i, patch in reversed(list(enumerate(patches)))
        )

    @property
    def last_layer(self) -> Tensor:
        """Return the weights of the pixels; the weight of the adversarial loss is measured there."""
        return self.up[-1].get_parameter("patch.linear.weight")

    def encode(self, video: Tensor) -> Posterior:
        """Video (b, 3, t, h, w) -> posterior over (b, c, t/f_t, h/f_s, w/f_s)."""
        check_video_shape(video.shape, temporal_factor=self.temporal_factor, spatial_factor=self.spatial_factor)
        x = rearrange(video, "b c t h w -> b t h w c")
        for level in self.down:
            x = level(x)
        return Posterior.from_moments(rearrange(self.moments(x), "b t h w c -> b c t h w"))

    def decode(self, latent: Tensor) -> Tensor:
        """Latent (b, c, t, h, w) -> video (b, 3, t f_t, h f_s, w f_s)."""
        x = self.enter(rearrange(latent, "b c t h w -> b t h w c"))
        for level in self.up:
            x = level(x)
        return rearrange(x, "b t h w c -> b c t h w")


def _check_levels(channels: Sequence[int], patches: Sequence[Sequence[int]]) -> None:
    require(listed(CHANNELS, 1, 16), channels=channels)
    if len(channels) != len(patches):
        raise UserError(f"{len(channels)} widths in channels and {len(patches)} patches; give one of each for every level")
    for patch in patches:
        require(listed(integer(1, 64), 3, 3), patch=patch)
        if patch[1] != patch[2]:
            raise UserError(f"patch {list(patch)} is not [frames, rows, columns] with as many rows as columns, e.g. [2, 4, 4]")


def _halo(frames_per_patch: Sequence[int], blocks: int) -> int:
    """Return how many latents away a frame can depend on: each block reaches one position of its own level."""
    reach, positions_per_latent = 0.0, 1
    for frames in reversed(frames_per_patch):
        reach += blocks / positions_per_latent
        positions_per_latent *= frames
    return math.ceil(reach)


class Level(nn.Module):
    """A patch layer and the blocks at its low-resolution side."""

    def __init__(self, patch: nn.Module, channels: int, blocks: int, *, checkpointing: bool) -> None:
        super().__init__()
        self.patch = patch
        self.blocks = nn.Sequential(*(Block(channels, checkpointing=checkpointing) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.patch(self.blocks(x)) if isinstance(self.patch, UnfoldPatch) else self.blocks(self.patch(x))


class FoldPatch(nn.Module):
    """(b, t i, h j, w k, c) -> (b, t, h, w, c'): a patch becomes channels, then a linear map."""

    def __init__(self, in_channels: int, out_channels: int, patch: Sequence[int]) -> None:
        super().__init__()
        self.sides = tuple(patch)
        self.linear = nn.Linear(in_channels * math.prod(patch), out_channels)

    def forward(self, x: Tensor) -> Tensor:
        i, j, k = self.sides
        return self.linear(rearrange(x, "b (t i) (h j) (w k) c -> b t h w (i j k c)", i=i, j=j, k=k))


class UnfoldPatch(nn.Module):
    """(b, t, h, w, c) -> (b, t i, h j, w k, c'): a linear map, then channels become a patch (pixel shuffle)."""

    def __init__(self, in_channels: int, out_channels: int, patch: Sequence[int]) -> None:
        super().__init__()
        self.sides = tuple(patch)
        self.linear = nn.Linear(in_channels, out_channels * math.prod(patch))

    def forward(self, x: Tensor) -> Tensor:
        i, j, k = self.sides
        return rearrange(self.linear(x), "b t h w (i j k c) -> b (t i) (h j) (w k) c", i=i, j=j, k=k)


class Block(nn.Module):
    """x + time(silu(norm(space(silu(norm(x)))))) on (b, t, h, w, c)."""

    def __init__(self, channels: int, *, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.norm_space = nn.LayerNorm(channels)
        self.space = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_time = nn.LayerNorm(channels)
        self.time = zero_init(VolumeConv(channels, channels, (3, 1, 1), padding=(1, 0, 0)))

    def forward(self, x: Tensor) -> Tensor:
        if self.checkpointing and self.training:
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        y = rearrange(F.silu(self.norm_space(x)), "b t h w c -> (b t) c h w")
        y = rearrange(self.space(y), "(b t) c h w -> b t h w c", b=batch)
        y = rearrange(F.silu(self.norm_time(y)), "b t h w c -> b c t h w")
        return x + rearrange(self.time(y), "b c t h w -> b t h w c")
