"""What the network is asked to predict: eps (DDPM), x0, or v (Salimans & Ho 2022).

Letters: x0 clean, eps noise, x_t = alpha x0 + sigma eps, v = alpha eps - sigma x0.
Every objective says its `target`, how its output becomes `x0`, and `x0_error_ratio`: the squared error of x0 that a
squared error of 1 in the output stands for, by which weights on x0 are translated (weights.py).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lvdm.diffusion.process import v_from_x0_eps, x0_from_eps, x0_from_v
from lvdm.diffusion.schedules import NoiseSchedule
from lvdm.types import UserError


@runtime_checkable
class Objective(Protocol):
    def target(self, x0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor: ...

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor: ...

    def x0_error_ratio(self, alpha_bar: Tensor) -> Tensor: ...


class EpsObjective:
    """Predict the noise. x0 = (x_t - sigma eps) / alpha cannot be had where alpha is 0 (see check_compatible)."""

    def target(self, x0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return eps

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return x0_from_eps(output, x_t, t, schedule)

    def x0_error_ratio(self, alpha_bar: Tensor) -> Tensor:
        return (1 - alpha_bar) / alpha_bar  # 1 / SNR


class X0Objective:
    """Predict the clean sample."""

    def target(self, x0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return x0

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return output

    def x0_error_ratio(self, alpha_bar: Tensor) -> Tensor:
        return torch.ones_like(alpha_bar)


class VObjective:
    """Predict v = alpha eps - sigma x0: the noise where all is signal, minus the signal where all is noise."""

    def target(self, x0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return v_from_x0_eps(x0, eps, t, schedule)

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return x0_from_v(output, x_t, t, schedule)

    def x0_error_ratio(self, alpha_bar: Tensor) -> Tensor:
        return 1 - alpha_bar  # 1 / (SNR + 1)


def check_compatible(objective: Objective, schedule: NoiseSchedule) -> None:
    """Refuse the one pair that has no answer: eps at a time without signal says nothing of x0."""
    if isinstance(objective, EpsObjective) and schedule.has_zero_terminal_snr:
        raise UserError(
            "the eps objective came with a schedule whose last time has no signal, where x0 cannot be had from eps; "
            "take VObjective or X0Objective, or set zero_terminal_snr to false"
        )
