"""Which times a sampler visits, and how much signal there is at each (DDIM sec. 4.2; Lin et al. 2023 sec. 3.3).

Letters: t diffusion time in 0..T-1, alpha_bar signal power, S number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from lvdm.diffusion.schedules import NoiseSchedule
from lvdm.types import UserError


@dataclass(frozen=True)
class SamplingGrid:
    """Times from noisy to clean, and alpha_bar at each of them and at the end, which is one value more."""

    times: tuple[int, ...]
    alpha_bar: tuple[float, ...]

    def __post_init__(self) -> None:
        assert self.times and len(self.alpha_bar) == len(self.times) + 1, "alpha_bar needs one value more than times"
        assert all(a > b for a, b in zip(self.times, self.times[1:], strict=False)), "times must fall"
        assert all(a < b for a, b in zip(self.alpha_bar, self.alpha_bar[1:], strict=False)), "alpha_bar must rise"

    def __len__(self) -> int:
        return len(self.times)


def make_grid(schedule: NoiseSchedule, steps: int, spacing: str = "published") -> SamplingGrid:
    """A grid by the name of its spacing: "published" or "trailing"."""
    if spacing not in SPACINGS:
        raise UserError(f"spacing is {spacing!r}, expected one of {', '.join(SPACINGS)}")
    return SPACINGS[spacing](schedule, steps)


def published_grid(schedule: NoiseSchedule, steps: int) -> SamplingGrid:
    """LVDM's: every (T // S)-th time, plus 1, ending at alpha_bar[0]. S = 30 of 1000 makes 31 steps. It starts nearly a stride
    below T, where some signal is left, and takes it for pure noise: with few steps, or zero terminal SNR, prefer trailing."""
    num_steps = schedule.num_steps
    _check_steps(steps, num_steps)
    if not _fits_published(steps, num_steps):
        others = [n for n in range(1, num_steps) if _fits_published(n, num_steps)]
        hint = (
            f"take {min(others, key=lambda n: abs(n - steps))} steps, or spacing trailing" if others else "take spacing trailing"
        )
        raise UserError(
            f"{steps} steps with published spacing reach time {num_steps}, outside the schedule of {num_steps}; {hint}"
        )
    times = [t + 1 for t in range(0, num_steps, num_steps // steps)][::-1]
    return _grid(schedule, times, final=float(schedule.table[0]))


def trailing_grid(schedule: NoiseSchedule, steps: int) -> SamplingGrid:
    """S equal strides down from T - 1, where a zero-terminal-SNR schedule is pure noise, ending at alpha_bar = 1."""
    num_steps = schedule.num_steps
    _check_steps(steps, num_steps)
    # round(T (S - i) / S) - 1, in integers
    times = [(2 * num_steps * (steps - i) + steps) // (2 * steps) - 1 for i in range(steps)]
    return _grid(schedule, times, final=1.0)


def full_grid(schedule: NoiseSchedule) -> SamplingGrid:
    """All T times, as DDPM goes."""
    return trailing_grid(schedule, schedule.num_steps)


SPACINGS = {"published": published_grid, "trailing": trailing_grid}


def _grid(schedule: NoiseSchedule, times: list[int], *, final: float) -> SamplingGrid:
    table = schedule.table.tolist()
    return SamplingGrid(tuple(times), (*(table[t] for t in times), final))


def _fits_published(steps: int, num_steps: int) -> bool:
    """Whether the last of range(0, T, T // S), plus 1, is still a time. Not so for 3, 37, 300 or any above 500 of 1000."""
    return (num_steps - 1) % (num_steps // steps) != 0


def _check_steps(steps: int, num_steps: int) -> None:
    if not 1 <= steps <= num_steps:
        raise UserError(f"{steps} sampling steps were asked of a schedule with {num_steps}; take 1 to {num_steps}")
