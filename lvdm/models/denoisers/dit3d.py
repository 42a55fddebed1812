"""A transformer over patches of video latents: attention in space, then in time (DiT, Peebles & Xie 2023; Latte, Ma et al. 2024).

Every frame has its own modulation, adaLN-zero, because every frame may have its own diffusion time.
Letters: b batch, c channels, t frames (as a shape) or diffusion time (as an argument), n tokens of a frame, p patch, e embedding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lvdm.models.denoisers.condition_embedding import ConditionedDenoiser, check_latent, with_mask_channel
from lvdm.models.denoisers.text_attention import Attention, over_time
from lvdm.models.layers.embeddings import GridPosition
from lvdm.models.layers.init import zero_init
from lvdm.rules import CHANNELS, LAYERS, integer, require
from lvdm.types import Condition, DenoiserInputs, UserError


class DiT3D(ConditionedDenoiser):
    """forward(x (b, in_channels, t, h, w), t (b,) or (b, t), cond) -> (b, out_channels, t, h, w)."""

    def __init__(
        self,
        in_channels: int = 4,  # of the latent; the mask channel is not counted
        out_channels: int = 4,
        width: int = 384,  # of a token
        depth: int = 12,  # blocks
        num_heads: int = 6,  # of every attention
        patch: int = 2,  # rows and columns of latents in one token
        mask_channel: bool = False,  # one more input channel, 1 on given frames
        noise_level: str | None = None,  # of given frames: "embedding", "time" (their own diffusion time) or None
        num_noise_levels: int = 251,  # with "embedding": levels are below this number
        num_labels: int = 0,  # classes; 0: none. A negative label is no class
        context_dim: int | None = None,  # width of the text features; each block then has an attention to them
        fps_embedding: bool = False,  # embed the clip's frames per second; cond.fps is then required
        checkpointing: bool = False,  # less memory in training for about a third more time
    ) -> None:
        require(CHANNELS, in_channels=in_channels, out_channels=out_channels, width=width, num_heads=num_heads)
        require(LAYERS, depth=depth)
        require(integer(1, 64), patch=patch)
        if width % num_heads:
            raise UserError(f"{num_heads} heads do not divide a width of {width}; change num_heads or width")
        levels = num_noise_levels if noise_level == "embedding" else None
        inputs = DenoiserInputs(mask_channel, noise_level, levels, num_labels, context_dim, fps_embedding)
        super().__init__(inputs, features=width, width=width)
        self.in_channels, self.patch, self.checkpointing = in_channels, patch, checkpointing
        self.enter = nn.Linear((in_channels + mask_channel) * patch**2, width)
        self.position = GridPosition(width)
        nn.init.xavier_uniform_(self.position.proj.weight)
        self.blocks = nn.ModuleList(Block(width, num_heads, context_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero_init(nn.Linear(width, 2 * width))
        self.out = zero_init(nn.Linear(width, out_channels * patch**2))

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        check_latent(x, channels=self.in_channels, multiple=self.patch)
        cond = self.checked(cond)
        frames, rows, columns = x.shape[2], x.shape[3] // self.patch, x.shape[4] // self.patch
        emb = nn.functional.silu(self.embed(t, cond, frames=frames))  # (b, t, e)
        context = None if cond.context is None else cond.context.to(emb.dtype)
        h = with_mask_channel(x, cond.mask) if self.inputs.mask else x
        h = rearrange(h, "b c t (h p) (w q) -> b t (h w) (c p q)", p=self.patch, q=self.patch)
        h = self.enter(h.to(emb.dtype)) + self.position(frames, rows, columns, x.device).unflatten(0, (frames, -1))
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(block, h, emb, context, use_reentrant=False)
            else:
                h = block(h, emb, context)
        shift, scale = self.modulation(emb)[:, :, None].chunk(2, dim=-1)
        h = self.out(modulate(self.norm(h), shift, scale))
        h = rearrange(h, "b t (h w) (c p q) -> b c t (h p) (w q)", h=rows, p=self.patch, q=self.patch)
        return h.to(x.dtype).contiguous()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift normalised tokens (b, t, n, e) by their frame's embedding (b, t, 1, e)."""
    return x * (1 + scale) + shift


class Block(nn.Module):
    """x (b, t, n, e): space, time, text (if there is any) and an MLP, each a residual whose gate is zero at the start."""

    def __init__(self, width: int, num_heads: int, context_dim: int | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero_init(nn.Linear(width, 9 * width))
        self.space, self.time = Attention(width, num_heads), Attention(width, num_heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.text = None if context_dim is None else Attention(width, num_heads, context_dim=context_dim)
        if self.text is not None:
            zero_init(self.text.to_out)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        space, time, mlp = self.modulation(emb)[:, :, None].unflatten(-1, (3, 3, -1)).unbind(-3)
        x = x + gated(self.space, self.norm(x), space)
        x = x + gated(lambda tokens: over_time(self.time, tokens), self.norm(x), time)
        if self.text is not None:
            x = x + self.text(self.norm(x).flatten(1, 2), context).view(x.shape)
        return x + gated(self.mlp, self.norm(x), mlp)


def gated(layer: Callable[[Tensor], Tensor], x: Tensor, modulation: Tensor) -> Tensor:
    """gate * layer(modulate(x)), adaLN-zero; the modulation is (b, t, 1, 3, e)."""
    shift, scale, gate = modulation.unbind(-2)
    return gate * layer(modulate(x, shift, scale))
