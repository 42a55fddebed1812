"""The latent of a clip as three planes, without one of its axes each (PVDM section 3.2).

    xy (h, w), the paper's z^s    yt (t, w), its z^h    xt (t, h), its z^w
Packed, they are (b, c, l): flattened row by row, in this order. Letters: b batch, c channels, t frames, h w locations of the
latent, l = h w + t w + t h, k planes of equal shape that lie side by side in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from lvdm.types import UserError

NAMES = ("xy", "yt", "xt")


@dataclass(frozen=True)
class Planes:
    """The sizes of a latent whose planes these are.

    planes = Planes(frames=16, height=32, width=32)
    xy, yt, xt = planes.split(latent)  # (b, c, 32, 32), (b, c, 16, 32), (b, c, 16, 32)
    latent = pack((xy, yt, xt))  # (b, c, 2048)
    """

    frames: int
    height: int
    width: int

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Return rows and columns of each plane."""
        return (self.height, self.width), (self.frames, self.width), (self.frames, self.height)

    @property
    def length(self) -> int:
        """Return l, the locations of all planes."""
        return sum(rows * columns for rows, columns in self.shapes)

    @property
    def stacks(self) -> tuple[int, ...]:
        """Return k for each shape. Planes of equal shape are neighbours, whichever two sizes are equal."""
        return tuple(len(list(equal)) for _, equal in groupby(self.shapes))

    def split(self, latent: Tensor) -> list[Tensor]:
        """(b, c, l) -> three planes (b, c, rows, columns)."""
        if latent.ndim != 3 or latent.shape[2] != self.length:
            sizes = f"{self.frames} frames of {self.height} x {self.width}"
            raise UserError(f"the latent is {tuple(latent.shape)}, the planes of {sizes} are (b, c, {self.length})")
        parts = latent.split([rows * columns for rows, columns in self.shapes], dim=2)
        return [part.unflatten(2, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def stack(self, latent: Tensor) -> list[Tensor]:
        """(b, c, l) -> one tensor (k b, c, rows, columns) for each shape, so that a layer runs once for equal planes."""
        planes = iter(self.split(latent))
        return [torch.cat([next(planes) for _ in range(k)]) for k in self.stacks]

    def unstack(self, stacks: Sequence[Tensor]) -> Tensor:
        """Return the latent (b, c, l) of which these are the stacked planes."""
        return pack([plane for k, stack in zip(self.stacks, stacks, strict=True) for plane in stack.chunk(k)])

    def shrunk(self, factor: int) -> Planes:
        """Return the sizes at a down factor; refuse those that it does not divide."""
        sizes = (self.frames, self.height, self.width)
        if any(size % factor for size in sizes):
            raise UserError(f"planes of {sizes} frames, rows and columns do not divide by {factor}; take multiples of it")
        return Planes(*(size // factor for size in sizes))


def pack(planes: Sequence[Tensor]) -> Tensor:
    """Return planes (b, c, rows, columns) as one latent (b, c, l)."""
    return torch.cat([plane.flatten(2) for plane in planes], dim=2)
