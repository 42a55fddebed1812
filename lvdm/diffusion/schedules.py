"""How much signal and noise there is at each time: noise schedules, x_t = alpha x0 + sigma eps.

DDPM sec. 4; Nichol & Dhariwal 2021 sec. 3.2; Lin et al. 2023 sec. 3.1; rectified flow: Liu et al. 2022, Esser et al. 2024 (SD3).

Letters: t diffusion time from 0 (clean) to T (noise), u = t / T its fraction, beta noise added by one step,
alpha_bar = prod(1 - beta) signal power, alpha and sigma as above, SNR = alpha^2 / sigma^2.
Here alpha is the signal after all steps up to t, not one step's 1 - beta.
Values are float64; they are cast when they meet a sample, to the sample's type or float32, whichever is finer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from lvdm.rules import integer, number, require
from lvdm.types import UserError

Time = TypeVar("Time", Tensor, float)


class NoiseSchedule(ABC):
    """A schedule over continuous times 0..num_steps, which networks and noise levels are given too.

    A subclass sets `num_steps` and computes `alpha` and `sigma`."""

    num_steps: int

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the signal at times t of any shape, integer or real: float64, same shape and device."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise at times t, as `alpha` does."""

    def alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) at t (b,) or per frame (b, T), shaped to multiply `like` (b, c, ...)."""
        return expand_to(self.alpha(t), like), expand_to(self.sigma(t), like)

    def time_at(self, u: Tensor) -> Tensor:
        """Return the times at fractions u in [0, 1] of the way from clean to noise."""
        return (u.double() * self.num_steps).float()

    def trailing_times(self, steps: int) -> list[float]:
        """Return steps + 1 times in equal strides from the noisiest one down to no noise."""
        return [self.num_steps * (1 - i / steps) for i in range(steps + 1)]

    @property
    def has_zero_terminal_snr(self) -> bool:
        """Check that the last time is pure noise."""
        return float(self.alpha(torch.tensor(self.trailing_times(1)[0], device="cpu"))) < 1e-12


@dataclass(eq=False)
class TableSchedule(NoiseSchedule):
    """A variance-preserving schedule, alpha^2 + sigma^2 = 1, given by a table of alpha_bar over the times 0..T-1.

    Real times are interpolated, and at time -1 there is no noise. A subclass computes `alpha_bars`. It is shifted before it is
    rescaled.

    Args:
        num_steps: T.
        snr_shift: k divides sqrt(SNR) by k; k > 1 is more noise, as larger or longer latents want.
        zero_terminal_snr: rescale so that the last time is pure noise.
    """

    num_steps: int = 1000
    zero_terminal_snr: bool = field(default=False, kw_only=True)
    snr_shift: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        require(integer(2, 10**6), num_steps=self.num_steps)  # published models use 1000
        require(number(1e-3, 1e3), snr_shift=self.snr_shift)  # 1 leaves the schedule as it is, 2 is noisier
        table = self.alpha_bars()
        if self.snr_shift != 1.0:
            table = shift_snr(table, self.snr_shift)
        if self.zero_terminal_snr:
            table = rescale_to_zero_terminal_snr(table)
        if not (bool((table[1:] < table[:-1]).all()) and 0 <= float(table[-1]) < float(table[0]) < 1):
            raise UserError(
                f"alpha_bar goes from {float(table[0]):g} to {float(table[-1]):g} in {len(table)} steps, expected that it falls "
                "at every step, from below 1 to 0 or above; take published values of the schedule"
            )
        self.table = table  # (T,) float64, on the CPU whatever the default device
        self._from_clean = {table.device: torch.cat([torch.ones_like(table[:1]), table])}  # (T + 1,), from time -1 on

    @abstractmethod
    def alpha_bars(self) -> Tensor:
        """Return alpha_bar at the times 0..T-1 before any change, float64 on the CPU."""

    def alpha_bar(self, t: Tensor) -> Tensor:
        """Return the signal power at times t in -1..T-1 of any shape: float64, same shape, on t's device."""
        if t.device not in self._from_clean:
            self._from_clean[t.device] = self._from_clean[self.table.device].to(t.device)
        table = self._from_clean[t.device]
        if not t.is_floating_point():
            return table[t + 1]
        below = t.double().floor().clamp(-1, self.num_steps - 2)
        at = below.long() + 1
        return torch.lerp(table[at], table[at + 1], t.double() - below)

    def alpha(self, t: Tensor) -> Tensor:
        return self.alpha_bar(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self.alpha_bar(t)).sqrt()

    def time_at(self, u: Tensor) -> Tensor:
        return (u * self.num_steps).long().clamp(max=self.num_steps - 1)

    def trailing_times(self, steps: int) -> list[float]:
        # round(T (S - i) / S) - 1, in integers
        return [(2 * self.num_steps * (steps - i) + steps) // (2 * steps) - 1 for i in range(steps + 1)]


@dataclass(eq=False)
class SqrtLinear(TableSchedule):
    """beta = linspace(sqrt(start), sqrt(end), T)^2: what LVDM and latent diffusion call "linear"."""

    start: float = 0.0015
    end: float = 0.0155

    def alpha_bars(self) -> Tensor:
        _check_betas(self.start, self.end)
        beta = torch.linspace(math.sqrt(self.start), math.sqrt(self.end), self.num_steps, dtype=torch.float64, device="cpu") ** 2
        return alpha_bar_of(beta)


@dataclass(eq=False)
class Linear(TableSchedule):
    """beta = linspace(start, end, T), as in DDPM."""

    start: float = 1e-4
    end: float = 2e-2

    def alpha_bars(self) -> Tensor:
        _check_betas(self.start, self.end)
        return alpha_bar_of(torch.linspace(self.start, self.end, self.num_steps, dtype=torch.float64, device="cpu"))


@dataclass(eq=False)
class Cosine(TableSchedule):
    """alpha_bar follows cos^2 from time -1 (all signal) to T-1, with beta at most .999 (Nichol & Dhariwal eq. 17)."""

    offset: float = 0.008

    def alpha_bars(self) -> Tensor:
        require(number(0, 1), offset=self.offset)  # 0.008 is the published one
        u = torch.arange(self.num_steps + 1, dtype=torch.float64, device="cpu") / self.num_steps  # (T+1,)
        signal = torch.cos((u + self.offset) / (1 + self.offset) * math.pi / 2) ** 2
        return alpha_bar_of((1 - signal[1:] / signal[:-1]).clamp(max=0.999))


@dataclass(eq=False)
class RectifiedFlow(NoiseSchedule):
    """The straight path alpha = 1 - u, sigma = u, with u = t / T: networks are given t, which goes up to T.

    Args:
        num_steps: T, the scale of t; levels of given frames are times on it too.
        sampling_shift: k spends more sampling steps where there is much noise (SD3 eq. 23); 1 is even, SD3 takes 3.
            Training has a shift of its own: `training_times.ShiftedTimes`.
    """

    num_steps: int = 1000
    sampling_shift: float = 1.0

    def __post_init__(self) -> None:
        require(integer(2, 10**6), num_steps=self.num_steps)
        require(number(1e-3, 1e3), sampling_shift=self.sampling_shift)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - self.sigma(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t.double() / self.num_steps

    def trailing_times(self, steps: int) -> list[float]:
        even = super().trailing_times(steps)
        return [
            t if t in (0, self.num_steps) else self.num_steps * shift_time(t / self.num_steps, self.sampling_shift) for t in even
        ]


def shift_time(u: Time, k: float) -> Time:  # SD3 eq. 23
    """Return the fraction of time at which sigma / alpha of the straight path is k times that at u."""
    return k * u / (1 + (k - 1) * u)


def alpha_bar_of(beta: Tensor) -> Tensor:  # DDPM, above eq. 4
    return (1 - beta).cumprod(dim=0)


def shift_snr(alpha_bar: Tensor, k: float) -> Tensor:
    """Return alpha_bar with SNR / k^2 everywhere."""
    return alpha_bar / (alpha_bar + k**2 * (1 - alpha_bar))


def rescale_to_zero_terminal_snr(alpha_bar: Tensor) -> Tensor:  # Lin et al. 2023, algorithm 1
    """Move sqrt(alpha_bar) down so that the last is 0, and stretch it so that the first stays."""
    alpha = alpha_bar.sqrt()
    first, last = alpha[0], alpha[-1]
    rescaled = ((alpha - last) * first / (first - last)) ** 2
    rescaled[0] = alpha_bar[0]  # to the bit
    return rescaled


def expand_to(values: Tensor, like: Tensor) -> Tensor:
    """Return one value a sample (b,) as (b, 1, 1, ...), one a frame (b, T) as (b, 1, T, 1, ...); in like's type or float32."""
    assert values.ndim in (1, 2), f"expected one value per sample or per frame, got shape {tuple(values.shape)}"
    if values.ndim == 2:
        values = values[:, None]
    values = values.reshape(*values.shape, *[1] * (like.ndim - values.ndim))
    return values.to(torch.promote_types(like.dtype, torch.float32))


def _check_betas(start: float, end: float) -> None:
    if not 0 < start <= end < 1:
        raise UserError(f"the schedule goes from beta {start} to {end}, expected 0 < start <= end < 1; DDPM uses 1e-4 and 2e-2")
