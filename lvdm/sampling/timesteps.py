"""Which times a sampler visits, and how much signal and noise there is at each (DDIM sec. 4.2; Lin et al. 2023 sec. 3.3).

Letters: t diffusion time, x_t = alpha x0 + sigma eps, lambda = log(alpha / sigma), S number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lvdm.diffusion.schedules import NoiseSchedule, TableSchedule
from lvdm.types import UserError


@dataclass(frozen=True)
class Step:
    """One step of a sampler, from a time to the next, cleaner one. The end of the last step may have no noise."""

    t: float
    t_next: float
    alpha: float
    alpha_next: float
    sigma: float
    sigma_next: float
    is_last: bool
    num_steps: int  # of the whole grid

    @property
    def lambda_(self) -> float:
        return _half_log_snr(self.alpha, self.sigma)

    @property
    def lambda_next(self) -> float:
        return _half_log_snr(self.alpha_next, self.sigma_next)


@dataclass(frozen=True)
class SamplingGrid:
    """Times from noisy to clean, with alpha and sigma at each. The network is asked at all of them but the last."""

    times: tuple[float, ...]
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.times) == len(self.alpha) == len(self.sigma) > 1, "a grid needs two times, each with alpha and sigma"
        for step in self:
            assert step.t > step.t_next, "times must fall"
            assert step.alpha * step.sigma_next < step.alpha_next * step.sigma, "the signal must rise against the noise"

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.times) - 1

    def __iter__(self) -> Iterator[Step]:
        for i in range(len(self)):
            yield Step(
                *(self.times[i], self.times[i + 1], self.alpha[i], self.alpha[i + 1], self.sigma[i], self.sigma[i + 1]),
                is_last=i == len(self) - 1,
                num_steps=len(self),
            )


def make_grid(schedule: NoiseSchedule, steps: int, spacing: str = "published") -> SamplingGrid:
    """Return a grid by the name of its spacing: "published" or "trailing"."""
    if spacing not in SPACINGS:
        raise UserError(f"spacing is {spacing!r}, expected one of {', '.join(SPACINGS)}")
    return SPACINGS[spacing](schedule, steps)


def published_grid(schedule: NoiseSchedule, steps: int) -> SamplingGrid:
    """Return LVDM's grid: every (T // S)-th time, plus 1, ending at time 0. S = 30 of 1000 makes 31 steps.

    It starts nearly a stride below T, where some signal is left, and takes it for pure noise. With few steps, or zero terminal
    SNR, prefer trailing."""
    _check_steps(steps, schedule)
    _check_table(schedule, "published spacing", "spacing trailing")
    num_steps = schedule.num_steps
    if not _fits_published(steps, num_steps):
        others = [n for n in range(1, num_steps) if _fits_published(n, num_steps)]
        hint = (
            f"take {min(others, key=lambda n: abs(n - steps))} steps, or spacing trailing" if others else "take spacing trailing"
        )
        raise UserError(
            f"{steps} steps with published spacing reach time {num_steps}, outside the schedule of {num_steps}; {hint}"
        )
    return grid_at(schedule, [*[t + 1 for t in range(0, num_steps, num_steps // steps)][::-1], 0])


def trailing_grid(schedule: NoiseSchedule, steps: int) -> SamplingGrid:
    """Return S equal strides down from the schedule's last time, where it may be pure noise, to no noise."""
    _check_steps(steps, schedule)
    return grid_at(schedule, schedule.trailing_times(steps))


def full_grid(schedule: NoiseSchedule) -> SamplingGrid:
    """Return the grid of all T times."""
    _check_table(schedule, "a sampler without a number of steps", "a number of steps")
    return trailing_grid(schedule, schedule.num_steps)


SPACINGS = {"published": published_grid, "trailing": trailing_grid}


def grid_at(schedule: NoiseSchedule, times: Sequence[float]) -> SamplingGrid:
    """Return the grid of these times, noisiest first; integers stay integers, as networks on tables take them."""
    t = torch.tensor(times, dtype=torch.long if all(isinstance(time, int) for time in times) else torch.float64, device="cpu")
    return SamplingGrid(tuple(times), tuple(schedule.alpha(t).tolist()), tuple(schedule.sigma(t).tolist()))


def _fits_published(steps: int, num_steps: int) -> bool:
    """Check that the last of range(0, T, T // S), plus 1, is still a time. It is not for 3, 37, 300 or any above 500 of 1000."""
    return (num_steps - 1) % (num_steps // steps) != 0


def _check_steps(steps: int, schedule: NoiseSchedule) -> None:
    if not 1 <= steps <= schedule.num_steps:
        raise UserError(
            f"{steps} sampling steps were requested of a schedule with {schedule.num_steps}; take 1 to {schedule.num_steps}"
        )


def _check_table(schedule: NoiseSchedule, what: str, instead: str) -> None:
    if not isinstance(schedule, TableSchedule):
        raise UserError(f"{what} visits a table's times, and {type(schedule).__name__} is continuous; give {instead}")


def _half_log_snr(alpha: float, sigma: float) -> float:
    """Return log(alpha / sigma), infinite at both ends."""
    if alpha == 0 or sigma == 0:
        return -math.inf if alpha == 0 else math.inf
    return math.log(alpha) - math.log(sigma)
