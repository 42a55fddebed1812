"""A sampler with its grid and options, checked.

Letters: x the sample, S number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lvdm.diffusion.schedules import NoiseSchedule
from lvdm.sampling.samplers import SAMPLERS, BeforeStep, OnStep, Sampler
from lvdm.sampling.timesteps import SamplingGrid, full_grid, make_grid
from lvdm.types import Denoise, Noise, UserError


@dataclass(frozen=True)
class Solver:
    """A sampler with its grid of times and its eta."""

    sampler: Sampler
    grid: SamplingGrid
    eta: float = 0.0

    def __call__(
        self, denoise: Denoise, x: Tensor, *, noise: Noise, before_step: BeforeStep | None = None, on_step: OnStep | None = None
    ) -> Tensor:
        return self.sampler(denoise, x, self.grid, eta=self.eta, noise=noise, before_step=before_step, on_step=on_step)


def make_solver(
    schedule: NoiseSchedule, sampler: str, *, steps: int | None = None, eta: float = 0.0, spacing: str = "published"
) -> Solver:
    """Return the solver of a sampler by name. Without `steps`, a sampler that has no usual number visits all times."""
    if sampler not in SAMPLERS:
        raise UserError(f"the sampler is {sampler!r}, expected one of {', '.join(SAMPLERS)}")
    chosen = SAMPLERS[sampler]
    if eta and not chosen.takes_eta:
        others = ", ".join(name for name, other in SAMPLERS.items() if other.takes_eta)
        raise UserError(f"eta is {eta}, but {sampler} has no eta; leave it out or take the sampler {others}")
    if not 0 <= eta <= 1:
        raise UserError(f"eta is {eta}, expected 0 (deterministic) to 1 (as random as DDPM)")
    if steps is None and chosen.usual_steps is None:
        return Solver(chosen, full_grid(schedule))
    if steps is None:
        raise UserError(f"{sampler} needs a number of steps; {chosen.usual_steps} is usual")
    return Solver(chosen, make_grid(schedule, steps, spacing), eta)
