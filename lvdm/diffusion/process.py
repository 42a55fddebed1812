"""The forward process, its posterior, and the three ways to name the same prediction (DDPM sec. 2; Salimans & Ho 2022 app. D).

Letters: x0 clean, eps noise, x_t = alpha x0 + sigma eps, v = alpha eps - sigma x0; t (b,) or per frame (b, T).
(x_t, v) is (x0, eps) turned by an angle whose cosine is alpha, so each conversion below is a line of one rotation.
"""

from __future__ import annotations

from torch import Tensor

from lvdm.diffusion.schedules import NoiseSchedule


def q_sample(x0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:  # DDPM eq. 4
    """x0 noised to time t; at t = 0 that is alpha_bar[0], a trace of noise and not none."""
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


# The posterior between any two times of a sampler's grid, from alpha_bar down to the cleaner alpha_bar_next (DDPM eq. 7 has t
# and t - 1): its mean is coef_x0 x0 + coef_xt x_t, its variance beta. On floats or tensors.


def posterior_coef_x0(alpha_bar: Tensor | float, alpha_bar_next: Tensor | float) -> Tensor | float:
    return alpha_bar_next**0.5 * (1 - alpha_bar / alpha_bar_next) / (1 - alpha_bar)


def posterior_coef_xt(alpha_bar: Tensor | float, alpha_bar_next: Tensor | float) -> Tensor | float:
    return (alpha_bar / alpha_bar_next) ** 0.5 * (1 - alpha_bar_next) / (1 - alpha_bar)


def posterior_beta(alpha_bar: Tensor | float, alpha_bar_next: Tensor | float) -> Tensor | float:
    return (1 - alpha_bar / alpha_bar_next) * (1 - alpha_bar_next) / (1 - alpha_bar)
