"""VideoMAE-v2 ViT-g (Wang et al. 2023) as the content-debiased FVD uses it (Ge et al. 2024): 1408 features of a clip.

Tubes of 2 frames and 14 x 14 pixels become tokens, 40 layers of attention among all of them follow, and the mean of the tokens is
normed. Names and shapes are those of the published file, whose classes (`head`) are not needed.
Letters: b batch, t frames, h w, n tokens, d width.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.models.features.weights import load_published, read_tensors

FRAMES = 16
SIDE = 224
TUBE = (2, 14, 14)
WIDTH = 1408
EPS = 1e-6  # of the layer norms


class Attention(nn.Module):
    """All tokens with all; queries and values have biases, keys none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in "qv")
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = F.linear(x, self.qkv.weight, bias).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (b, heads, n, d)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention, then an MLP, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=EPS) for _ in range(2))
        self.attn, self.mlp = Attention(width, heads), Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Tubes(nn.Module):
    """(b, 3, t, h, w) -> (b, n, d), by time, then row, then column."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, TUBE, TUBE)

    def forward(self, video: Tensor) -> Tensor:
        return self.proj(video).flatten(2).transpose(1, 2)


class VideoMAE(nn.Module):
    """(b, 3, t, side, side) in [0, 1] -> (b, width); 16 frames as trained, or more.

    Args:
        width, depth, heads, hidden: of the transformer, `hidden` being the width inside its MLPs.
        side: pixels of a frame.
    """

    def __init__(self, *, width: int = WIDTH, depth: int = 40, heads: int = 16, hidden: int = 6144, side: int = SIDE) -> None:
        super().__init__()
        self.grid = (FRAMES // TUBE[0], side // TUBE[1], side // TUBE[2])
        self.patch_embed = Tubes(width)
        self.blocks = nn.ModuleList([Block(width, heads, hidden) for _ in range(depth)])
        self.fc_norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, video: Tensor) -> Tensor:
        x = self.patch_embed(video)
        x = x + positions(self.grid, x.shape[-1], times=video.shape[2] // TUBE[0]).to(x)
        for block in self.blocks:
            x = block(x)
        return self.fc_norm(x.mean(1))


def positions(grid: tuple[int, int, int], width: int, *, times: int) -> Tensor:
    """Sines and cosines of a token's place in the row of all tokens: (n, width). For another number of times than trained with,
    those of the grid are interpolated over time, with the tenth of a step too much that the published code adds."""
    count = grid[0] * grid[1] * grid[2]
    place = torch.arange(count, dtype=torch.float64)[:, None]
    angle = place / 10000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    table = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)  # sin, cos, sin, cos ...
    if times == grid[0]:
        return table
    volume = table.T.unflatten(1, grid)[None]
    stretched = F.interpolate(volume, scale_factor=((times + 0.1) / grid[0], 1, 1), mode="trilinear", align_corners=False)
    return stretched[0].flatten(1).T


def load_videomae(path: Path) -> VideoMAE:
    """Return the frozen network of the published file."""
    with torch.device("meta"):  # all of it comes from the file
        network = VideoMAE()
    tensors = {name: value for name, value in read_tensors(path).items() if not name.startswith("head.")}
    load_published(network, tensors, path=path, what="VideoMAE-v2 ViT-g")
    return network.eval().requires_grad_(False)
