"""The transformers of PVDM's autoencoder: a trunk over time and space in turn, and a projector of sequences (PVDM section 3.2).

Parameters have the published names. Letters: b batch, t frames, h w locations, n tokens, d width of a token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lvdm.models.layers.attention import attend, merge_heads, split_heads
from lvdm.models.layers.rotary import frame_angles, grid_angles, turn


class PreNorm(nn.Module):
    """layer(LN(x)), without the residual."""

    def __init__(self, width: int, layer: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), layer

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        return self.fn(self.norm(x)) if angles is None else self.fn(self.norm(x), angles)


class SelfAttention(nn.Module):
    """Multi-head attention of tokens (..., n, d) to themselves; `angles` (n, width of a head) turn queries and keys."""

    def __init__(self, width: int, num_heads: int, head_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(width, 3 * num_heads * head_width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(num_heads * head_width, width))

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        q, k, v = (split_heads(part, self.num_heads) for part in self.to_qkv(x).chunk(3, dim=-1))
        if angles is not None:
            q, k = turn(q, angles), turn(k, angles)
        return self.to_out(merge_heads(attend(q, k, v)))


class Gate(nn.Module):
    """value * gelu(gate), exact gelu; the two are halves of the input."""

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Linear, gelu or a gated one, Linear."""

    def __init__(self, width: int, inner: int, *, is_gated: bool) -> None:
        super().__init__()
        first = nn.Linear(width, 2 * inner if is_gated else inner)
        self.net = nn.Sequential(first, Gate() if is_gated else nn.GELU(), nn.Identity(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Trunk(nn.Module):
    """Tokens (b, t, h, w, d) -> the same shape: attention over time, over space, and an MLP, each a residual.

    Args:
        patch_channels: numbers in a patch of pixels, if the trunk takes patches; 0: it takes tokens.
        checkpointing: recompute layers in the backward pass.
    """

    def __init__(
        self, width: int, depth: int, num_heads: int, head_width: int, *, patch_channels: int = 0, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.head_width, self.checkpointing = head_width, checkpointing
        self.to_patch_embedding = nn.Linear(patch_channels, width) if patch_channels else nn.Identity()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(width, SelfAttention(width, num_heads, head_width)),
                    PreNorm(width, SelfAttention(width, num_heads, head_width)),
                    PreNorm(width, FeedForward(width, 4 * width, is_gated=True)),
                ]
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        _, t, h, w, _ = x.shape
        angles = frame_angles(t, self.head_width, x.device), grid_angles(h, w, self.head_width, x.device)
        x = self.to_patch_embedding(x)
        for index in range(len(self.layers)):
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(self._layer, index, x, *angles, use_reentrant=False)
            else:
                x = self._layer(index, x, *angles)
        return x

    def _layer(self, index: int, x: Tensor, time_angles: Tensor, space_angles: Tensor) -> Tensor:
        time, space, mlp = self.layers[index].children()
        b, t, h, _, _ = x.shape
        columns = rearrange(x, "b t h w d -> (b h w) t d")
        x = x + rearrange(time(columns, time_angles), "(b h w) t d -> b t h w d", b=b, h=h)
        frames = rearrange(x, "b t h w d -> (b t) (h w) d")
        x = x + rearrange(space(frames, space_angles), "(b t) (h w) d -> b t h w d", t=t, h=h)
        return x + mlp(x)


class Projector(nn.Module):
    """Sequences (n, length, d) -> one token each (n, d). Parameters outside of it, a token and positions, are arguments."""

    def __init__(self, width: int, depth: int, num_heads: int, head_width: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(width, SelfAttention(width, num_heads, head_width)),
                    PreNorm(width, FeedForward(width, inner, is_gated=False)),
                ]
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor, token: Tensor, positions: Tensor) -> Tensor:
        """Append the learned token and return the first one of the sequence, as published, not the one that was appended."""
        x = torch.cat([x, token.expand(len(x), -1, -1)], dim=1) + positions
        for attention, mlp in (layer.children() for layer in self.layers):
            x = x + attention(x)
            x = x + mlp(x)
        return x[:, 0]
