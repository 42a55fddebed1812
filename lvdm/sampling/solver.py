"""A sampler with its grid and options: the one object that knows which sampler takes which option.

Letters: x the sample, S number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lvdm.diffusion.schedules import NoiseSchedule
from lvdm.sampling.samplers import SAMPLERS, BeforeStep, OnStep
from lvdm.sampling.timesteps import SamplingGrid, full_grid, make_grid
from lvdm.types import Denoise, Noise, UserError


@dataclass(frozen=True)
class Solver:
    """From noise to sample, whichever the sampler."""

    sampler: str
    grid: SamplingGrid
    eta: float = 0.0

    def __call__(
        self, denoise: Denoise, x: Tensor, *, noise: Noise, before_step: BeforeStep | None = None, on_step: OnStep | None = None
    ) -> Tensor:
        own = {"ddim": {"eta": self.eta, "noise": noise}, "ddpm": {"noise": noise}, "dpmpp": {}}[self.sampler]
        return SAMPLERS[self.sampler](denoise, x, self.grid, before_step=before_step, on_step=on_step, **own)


def make_solver(
    schedule: NoiseSchedule, sampler: str, *, steps: int | None = None, eta: float = 0.0, spacing: str = "published"
) -> Solver:
    """The solver by the sampler's name; DDPM goes through all times unless told how many, the others must be told."""
    if sampler not in SAMPLERS:
        raise UserError(f"the sampler is {sampler!r}, expected one of {', '.join(SAMPLERS)}")
    if eta and sampler != "ddim":
        raise UserError(f"eta is {eta}, but {sampler} has no eta; leave it out or take the sampler ddim")
    if not 0 <= eta <= 1:
        raise UserError(f"eta is {eta}, expected 0 (deterministic) to 1 (as random as DDPM)")
    if steps is None and sampler == "ddpm":
        return Solver(sampler, full_grid(schedule))
    if steps is None:
        raise UserError(f"{sampler} needs a number of steps; 50 is usual for ddim and 20 for dpmpp")
    return Solver(sampler, make_grid(schedule, steps, spacing), eta)
