"""Inception-v3 (Szegedy et al. 2016) as FID is measured with: 2048 features of every frame of a clip.

The weights are TensorFlow's of 2015. Unlike torchvision's network it averages without the padding, and its last block takes the
largest of its neighbours. Names and shapes are those of pytorch-fid's file, whose classes (`fc`) are not needed.
Letters: b batch, c channels, t frames, h w.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.models.features.i3d import tensorflow_stretched
from lvdm.models.features.weights import load_published, read_tensors

SIDE = 299  # pixels of a frame
WIDTH = 2048  # features
EPS = 1e-3  # of the batch norms
Kernel = int | tuple[int, int]
Branches = Mapping[str, Sequence[Any]]  # name: steps, each (channels, kernel) or (channels, kernel, stride), or a list of two
Scaled = Callable[[int], int]  # published channels -> channels


class Unit(nn.Module):
    """A convolution, a batch norm and a ReLU; the size stays at stride 1 unless `padded` is false."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, *, padded: bool = True) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Block(nn.Module):
    """Branches side by side, each a chain of units; a branch may end in two units side by side, `a` and `b`.

    Args:
        branches: the steps of each branch; `branch_pool` begins with a pool.
        pool: "average", "largest", or "reduce": the largest at stride 2, which is a branch without units.
    """

    def __init__(self, inputs: int, branches: Branches, *, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.chains: dict[str, list[list[str]]] = {}  # of names
        self.outputs = inputs if pool == "reduce" else 0
        for branch, steps in branches.items():
            width, chain = inputs, []
            for number, step in enumerate(steps, 1):
                name = branch if len(steps) == 1 else f"{branch}_{number}"
                pair = step if isinstance(step, list) else [step]
                names = [f"{name}{letter}" for letter in "ab"] if len(pair) == 2 else [name]
                for each, unit in zip(names, pair, strict=True):
                    self.add_module(each, Unit(width, *unit))
                width = sum(unit[0] for unit in pair)
                chain.append(names)
            self.chains[branch] = chain
            self.outputs += width

    def forward(self, x: Tensor) -> Tensor:
        made = []
        for branch, chain in self.chains.items():
            y = self._pooled(x) if branch == "branch_pool" else x
            for names in chain:
                y = torch.cat([self.get_submodule(name)(y) for name in names], dim=1)
            made.append(y)
        return torch.cat([*made, self._pooled(x)] if self.pool == "reduce" else made, dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "average":
            return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return F.max_pool2d(x, 3, stride=2) if self.pool == "reduce" else F.max_pool2d(x, 3, stride=1, padding=1)


class Inception(nn.Module):
    """Frames (b, 3, t, 299, 299) in [-1, 1] -> (b, t, 2048).

    Args:
        width: fraction of the published channels, but for the last block; for random weights only.
    """

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()

        def c(channels: int) -> int:
            return max(1, round(channels * width))

        self.Conv2d_1a_3x3 = Unit(3, c(32), 3, 2)
        self.Conv2d_2a_3x3 = Unit(c(32), c(32), 3, padded=False)
        self.Conv2d_2b_3x3 = Unit(c(32), c(64), 3)
        self.Conv2d_3b_1x1 = Unit(c(64), c(80), 1)
        self.Conv2d_4a_3x3 = Unit(c(80), c(192), 3, padded=False)
        inputs = c(192)
        for name, (branches, pool) in _blocks(c).items():
            block = Block(inputs, branches, pool=pool)
            self.add_module(f"Mixed_{name}", block)
            inputs = block.outputs

    def forward(self, video: Tensor) -> Tensor:
        x = self.features(video.transpose(1, 2).flatten(0, 1))  # (b t, 2048, h, w)
        return x.mean((2, 3)).unflatten(0, (len(video), -1))

    def features(self, frames: Tensor) -> Tensor:
        """Return the last block's output for frames (n, 3, h, w)."""
        x = frames
        for name, layer in self.named_children():
            x = layer(F.max_pool2d(x, 3, stride=2) if name in ("Conv2d_3b_1x1", "Mixed_5b") else x)
        return x


def _blocks(c: Scaled) -> dict[str, tuple[Branches, str]]:
    """Return the branches and the pool of each block, with channels `c(published)`."""

    def same(pool: int) -> tuple[Branches, str]:
        five, three = [(c(48), 1), (c(64), 5)], [(c(64), 1), (c(96), 3), (c(96), 3)]
        branches = {"branch1x1": [(c(64), 1)], "branch5x5": five, "branch3x3dbl": three, "branch_pool": [(c(pool), 1)]}
        return branches, "average"

    def seven(inner: int) -> tuple[Branches, str]:
        i, o, row, column = c(inner), c(192), (1, 7), (7, 1)
        double = [(i, 1), (i, column), (i, row), (i, column), (o, row)]
        once = [(i, 1), (i, row), (o, column)]
        return {"branch1x1": [(o, 1)], "branch7x7": once, "branch7x7dbl": double, "branch_pool": [(o, 1)]}, "average"

    def wide(scaled: Scaled, pool: str) -> tuple[Branches, str]:
        split = [(scaled(384), (1, 3)), (scaled(384), (3, 1))]
        double = [(scaled(448), 1), (scaled(384), 3), split]
        branches: Branches = {"branch1x1": [(scaled(320), 1)], "branch3x3": [(scaled(384), 1), split], "branch3x3dbl": double}
        return {**branches, "branch_pool": [(scaled(192), 1)]}, pool

    first: Branches = {"branch3x3": [(c(384), 3, 2)], "branch3x3dbl": [(c(64), 1), (c(96), 3), (c(96), 3, 2)]}
    long = [(c(192), 1), (c(192), (1, 7)), (c(192), (7, 1)), (c(192), 3, 2)]
    second: Branches = {"branch3x3": [(c(192), 1), (c(320), 3, 2)], "branch7x7x3": long}
    blocks = {"5b": same(32), "5c": same(64), "5d": same(64), "6a": (first, "reduce")}
    blocks |= {"6b": seven(128), "6c": seven(160), "6d": seven(160), "6e": seven(192), "7a": (second, "reduce")}
    return blocks | {"7b": wide(c, "average"), "7c": wide(int, "largest")}


def prepared(video: Tensor) -> Tensor:
    """Return levels (b, 3, t, h, w) at 299 x 299 on TensorFlow's grid, scaled as its graph does."""
    return (tensorflow_stretched(video.float(), side=SIDE) - 128) / 128


def load_inception(path: Path) -> Inception:
    """Return the frozen network of pytorch-fid's file."""
    with torch.device("meta"):  # all of it comes from the file
        network = Inception()
    tensors = {name: value for name, value in read_tensors(path).items() if not name.startswith(("fc.", "AuxLogits."))}
    load_published(network, tensors, path=path, what="Inception-v3 of FID")
    return network.eval().requires_grad_(False)
