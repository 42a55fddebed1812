"""The random times of a training batch: when the samples are, and the noise levels s of given frames.

Uniform and stratified; logit-normal and shifted (Esser et al. 2024, sec. 3.1 and eq. 23); levels (LVDM sec. 3.3, latent
perturbation). Letters: u fraction of the way from clean to noise, which a schedule turns into its own times t.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lvdm.diffusion.schedules import shift_time
from lvdm.rules import number, require
from lvdm.types import UserError


@runtime_checkable
class TrainingTimes(Protocol):
    def __call__(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Return u (b,) in [0, 1], float64 on the CPU."""


class UniformTimes:
    """Each sample's time by itself, all equally likely, as published."""

    def __call__(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.rand(batch, generator=generator, dtype=torch.float64)


class StratifiedTimes:
    """One time from each of b equal parts, in random order: every sample's time is still uniform while the batch covers the
    whole range, which makes a loss with less noise at the same cost."""

    def __call__(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(batch, generator=generator, dtype=torch.float64)
        return (torch.randperm(batch, generator=generator) + u) / batch


@dataclass(frozen=True)
class LogitNormalTimes:
    """log(u / (1 - u)) is normal: more training at middle times (Esser et al. 2024 eq. 19).

    Args:
        mean: above 0 favours noisy times; std: spread.
        times: the uniform draws that are mapped; `StratifiedTimes` stay stratified.
    """

    mean: float = 0.0
    std: float = 1.0
    times: TrainingTimes = field(default_factory=UniformTimes)

    def __post_init__(self) -> None:
        require(number(-100, 100), mean=self.mean)
        require(number(1e-3, 100), std=self.std)

    def __call__(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(self.times(batch, generator)))


@dataclass(frozen=True)
class ShiftedTimes:
    """Other times moved towards noise: sigma / alpha of the straight path is multiplied by `shift` (SD3 eq. 23).

    Args:
        shift: k; above 1 favours noisy times, 1 changes nothing.
        times: what is moved.
    """

    shift: float
    times: TrainingTimes = field(default_factory=UniformTimes)

    def __post_init__(self) -> None:
        require(number(1e-3, 1e3), shift=self.shift)

    def __call__(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        return shift_time(self.times(batch, generator), self.shift)


def draw_levels(batch: int, max_level: int, clean_fraction: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
    """Return s (b,) uniform on 0..max_level-1, and 0 with probability `clean_fraction`. Published: 250 and 0.

    Level 0 is a table's first time, which holds a trace of noise (alpha_bar .9985), so "clean" is nearly so."""
    if max_level < 1:
        raise UserError(f"max_level is {max_level}, expected at least 1; 1 gives level 0 always, the published one is 250")
    if not 0 <= clean_fraction <= 1:
        raise UserError(f"clean_fraction is {clean_fraction}, expected a number from 0 to 1")
    level = torch.randint(max_level, (batch,), generator=generator)
    is_clean = torch.rand(batch, generator=generator) < clean_fraction
    return torch.where(is_clean, 0, level)
