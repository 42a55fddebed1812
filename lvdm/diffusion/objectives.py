"""What the network is asked to predict: eps (DDPM), x0, v (Salimans & Ho 2022), or the flow's velocity (Liu et al. 2022).

Letters: x0 clean, eps noise, x_t = alpha x0 + sigma eps, v = alpha eps - sigma x0.
Every objective gives its `target`, how its output becomes `x0`, and `x0_error_ratio`: the squared error of x0 that a
squared error of 1 in the output stands for, by which weights on x0 are translated (loss_weights.py).
`misfit` says which schedules it cannot be used with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lvdm.diffusion.process import v_from_x0_eps, x0_from_eps, x0_from_v
from lvdm.diffusion.schedules import NoiseSchedule, expand_to
from lvdm.types import UserError


@runtime_checkable
class Objective(Protocol):
    def target(self, x0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor: ...

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor: ...

    def x0_error_ratio(self, alpha: Tensor, sigma: Tensor) -> Tensor: ...

    def misfit(self, schedule: NoiseSchedule) -> str | None:
        """Return why the objective cannot be used with a schedule, and what to do; None if it can."""


class EpsObjective:
    """Predict the noise. x0 = (x_t - sigma eps) / alpha needs a signal at every time."""

    def target(self, x0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return eps

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return x0_from_eps(output, x_t, t, schedule)

    def x0_error_ratio(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma**2 / alpha**2  # 1 / SNR

    def misfit(self, schedule: NoiseSchedule) -> str | None:
        if not schedule.has_zero_terminal_snr:
            return None
        return "at its last time there is no signal, where eps says nothing of x0; take another objective or schedule"


class X0Objective:
    """Predict the clean sample."""

    def target(self, x0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return x0

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return output

    def x0_error_ratio(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha)

    def misfit(self, schedule: NoiseSchedule) -> str | None:
        return None


class VObjective:
    """Predict v = alpha eps - sigma x0: the noise where all is signal, minus the signal where all is noise."""

    def target(self, x0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return v_from_x0_eps(x0, eps, t, schedule)

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return x0_from_v(output, x_t, t, schedule)

    def x0_error_ratio(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma**2  # 1 / (SNR + 1)

    def misfit(self, schedule: NoiseSchedule) -> str | None:
        if _is_one(schedule, lambda alpha, sigma: alpha**2 + sigma**2):
            return None
        return "x0 = alpha x_t - sigma v needs alpha^2 + sigma^2 = 1; take FlowObjective or X0Objective"


class FlowObjective:
    """Predict the velocity eps - x0 of the straight path x_t = x0 + sigma (eps - x0)."""

    def target(self, x0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return eps - x0

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return x_t - expand_to(schedule.sigma(t), x_t) * output

    def x0_error_ratio(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma**2

    def misfit(self, schedule: NoiseSchedule) -> str | None:
        if _is_one(schedule, lambda alpha, sigma: alpha + sigma):
            return None
        return "the velocity eps - x0 needs a straight path, alpha + sigma = 1; take RectifiedFlow, or VObjective"


def check_compatible(objective: Objective, schedule: NoiseSchedule) -> None:
    """Refuse an objective that cannot be used with the schedule."""
    reason = objective.misfit(schedule)
    if reason is not None:
        raise UserError(f"{type(objective).__name__} does not fit the schedule {type(schedule).__name__}: {reason}")


def _is_one(schedule: NoiseSchedule, of: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Check that a function of (alpha, sigma) is 1 all along the schedule."""
    t = schedule.time_at(torch.linspace(0, 1, 9, dtype=torch.float64, device="cpu"))
    value = of(schedule.alpha(t), schedule.sigma(t))
    return bool(torch.allclose(value, torch.ones_like(value)))
