"""The forward process, its posterior, and how a prediction becomes x0 (DDPM sec. 2; Salimans & Ho 2022 app. D).

Letters: x0 clean, eps noise, x_t = alpha x0 + sigma eps, v = alpha eps - sigma x0; t (b,) or per frame (b, T).
With alpha^2 + sigma^2 = 1, (x_t, v) is (x0, eps) turned by an angle whose cosine is alpha.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from lvdm.diffusion.schedules import NoiseSchedule


def q_sample(x0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:  # DDPM eq. 4
    """Return x0 noised to time t. At t = 0 a table of alpha_bar has a trace of noise."""
    alpha, sigma = schedule.alpha_sigma(t, x0)
    return alpha * x0 + sigma * eps


def v_from_x0_eps(x0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    alpha, sigma = schedule.alpha_sigma(t, x0)
    return alpha * eps - sigma * x0


def x0_from_eps(eps: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    alpha, sigma = schedule.alpha_sigma(t, x_t)
    return (x_t - sigma * eps) / alpha


def x0_from_v(v: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    alpha, sigma = schedule.alpha_sigma(t, x_t)
    return alpha * x_t - sigma * v


# The posterior between any two times of a sampler's grid, from (alpha, sigma) to the cleaner (alpha_next, sigma_next); DDPM eq. 7
# has t and t - 1. Its mean is coef_x0 x0 + coef_xt x_t, its variance beta. On floats or tensors.

Value = TypeVar("Value", Tensor, float)


def posterior_coef_x0(alpha: Value, sigma: Value, alpha_next: Value, sigma_next: Value) -> Value:
    return alpha_next * _new_share(alpha, sigma, alpha_next, sigma_next)


def posterior_coef_xt(alpha: Value, sigma: Value, alpha_next: Value, sigma_next: Value) -> Value:
    return (alpha / alpha_next) * (sigma_next / sigma) ** 2


def posterior_beta(alpha: Value, sigma: Value, alpha_next: Value, sigma_next: Value) -> Value:
    return sigma_next**2 * _new_share(alpha, sigma, alpha_next, sigma_next)


def _new_share(alpha: Value, sigma: Value, alpha_next: Value, sigma_next: Value) -> Value:
    """Return 1 - SNR / SNR_next, the share of the noise's variance that came in between the two times."""
    return 1 - (alpha * sigma_next / (alpha_next * sigma)) ** 2
