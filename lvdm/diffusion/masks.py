"""Which frames are given, and what follows from it (LVDM sec. 3.3: prediction and infilling).

Letters: b batch, t frames, m mask (b, 1, t, 1, 1) with 1 = given, s noise level of the given frames.
A mask object draws (batch, frames, generator) -> m, float32 on the CPU. Each sample is drawn by itself, so all kinds mix
freely in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lvdm.rules import integer, listed, number, require
from lvdm.types import UserError


class Mask(Protocol):
    def __call__(self, batch: int, frames: int, generator: torch.Generator | None) -> Tensor: ...


class NoMask:
    """No frame is given: unconditional."""

    def __call__(self, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        return _volume(torch.zeros(batch, frames))


@dataclass(frozen=True)
class FirstFrames:
    """Prediction: the first n frames are given, n drawn from `counts` (each equally likely) for every sample."""

    counts: Sequence[int]

    def __post_init__(self) -> None:
        require(listed(integer(0, 2**16), 1, 2**16), counts=self.counts)

    def __call__(self, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        if max(self.counts) >= frames:
            raise UserError(f"counts goes up to {max(self.counts)} given frames, a clip has {frames}; leave at least one to make")
        choice = torch.randint(len(self.counts), (batch,), generator=generator)
        count = torch.tensor(list(self.counts))[choice]
        return _volume(torch.arange(frames) < count[:, None])


class BothEnds:
    """Infilling: the first and the last frame are given."""

    def __call__(self, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        if frames < 3:
            raise UserError(f"a clip has {frames} frames, and with both ends given none is left to generate; take at least 3")
        frame = torch.arange(frames)
        return _volume(((frame == 0) | (frame == frames - 1)).expand(batch, -1))


@dataclass(frozen=True)
class EveryKth:
    """Infilling: frames 0, k, 2k, ... are given."""

    k: int

    def __post_init__(self) -> None:
        require(integer(2, 2**16), k=self.k)  # with every frame given none would be left to generate

    def __call__(self, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        return _volume((torch.arange(frames) % self.k == 0).expand(batch, -1))


@dataclass(frozen=True)
class Mixture:
    """A choice for every sample among `masks`, with `probabilities`. (Published: NoMask, FirstFrames and BothEnds.)"""

    masks: Sequence[Mask]
    probabilities: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.masks) != len(self.probabilities) or not self.masks:
            raise UserError(f"{len(self.masks)} masks came with {len(self.probabilities)} probabilities; give one for each")
        require(listed(number(0, 1), 1, len(self.masks)), probabilities=self.probabilities)
        if abs(sum(self.probabilities) - 1) > 1e-6:
            raise UserError(
                f"probabilities {list(self.probabilities)} should be 0 or more and sum to 1; NoMask can take the rest"
            )

    def __call__(self, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        weights = torch.tensor(list(self.probabilities), dtype=torch.float64)
        choice = torch.multinomial(weights, batch, replacement=True, generator=generator)
        drawn = torch.stack([mask(batch, frames, generator) for mask in self.masks])  # (kind, b, 1, t, 1, 1)
        return drawn[choice, torch.arange(batch)]


def write_frames(x: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
    """Return a copy of x with the given frames in their places."""
    return x * (1 - mask) + frames * mask


def _volume(is_given: Tensor) -> Tensor:
    return is_given.float()[:, None, :, None, None]  # (b, t) -> (b, 1, t, 1, 1)
