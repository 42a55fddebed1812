"""How much each time counts in the loss: weights of the shape of t, (b,) or per frame (b, T), float32.

Letters: SNR = alpha^2 / sigma^2, gamma its cap (Hang et al. 2023, Min-SNR).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lvdm.diffusion.objectives import Objective
from lvdm.diffusion.schedules import NoiseSchedule
from lvdm.rules import number, require


class UniformWeight:
    """Every time counts the same, in the objective's own terms."""

    def __call__(self, t: Tensor, schedule: NoiseSchedule, objective: Objective) -> Tensor:
        return torch.ones_like(t, dtype=torch.float32)


@dataclass(frozen=True)
class MinSNRWeight:
    """min(SNR, gamma) on the squared error of x0, whatever is predicted: x0: min(SNR, gamma), eps: min(SNR, gamma) / SNR,
    v: min(SNR, gamma) / (SNR + 1), flow: min(SNR, gamma) sigma^2. A time without signal has weight 0, so there the network
    learns from its neighbours only."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        require(number(1e-6, 1e6), gamma=self.gamma)  # 5 is the published one

    def __call__(self, t: Tensor, schedule: NoiseSchedule, objective: Objective) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        snr = (alpha / sigma) ** 2
        return (snr.clamp(max=self.gamma) * objective.x0_error_ratio(alpha, sigma)).float()
