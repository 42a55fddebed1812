"""From noise to sample: DDPM (sec. 2), DDIM (sec. 4), DPM-Solver++(2M) (Lu et al. 2022, algorithm 2).

Letters: x the sample at the current time, x0 the denoiser's answer, alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), eps
the noise that x and x0 imply; `_next` is the next, cleaner time. Samplers see denoise(x, t) -> x0, with t (b,), and a grid.

All share: `before_step`, which writes the given frames into x before each call of the network; the write stays (after the last
step there is none, so given frames come back with the last update on them); `on_step`, told the number of steps done. Where a
step has a random part, `noise` gives standard normal for a shape. They work in float32 at least, and without gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lvdm.diffusion.process import posterior_beta, posterior_coef_x0, posterior_coef_xt
from lvdm.sampling.timesteps import SamplingGrid
from lvdm.types import Denoise, Noise

BeforeStep = Callable[[Tensor], Tensor]
OnStep = Callable[[int], None]
Sampler = Callable[..., Tensor]  # (denoise, x, grid, *, before_step, on_step, and its own: ddim eta noise, ddpm noise) -> x


@dataclass(frozen=True)
class Step:
    """Where one step starts and ends."""

    alpha_bar: float
    alpha_bar_next: float
    is_last: bool


Update = Callable[[Tensor, Tensor, Step], Tensor]  # (x, x0, step) -> the next x


def ddim(
    denoise: Denoise,
    x: Tensor,
    grid: SamplingGrid,
    *,
    eta: float = 0.0,
    noise: Noise | None = None,
    before_step: BeforeStep | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """DDIM eq. 12 and 16: eta = 0 is deterministic, eta = 1 is DDPM's posterior."""
    assert eta == 0 or noise is not None, "ddim with eta above 0 needs noise"

    def update(x: Tensor, x0: Tensor, step: Step) -> Tensor:
        eps = (x - step.alpha_bar**0.5 * x0) / (1 - step.alpha_bar) ** 0.5
        std = eta * posterior_beta(step.alpha_bar, step.alpha_bar_next) ** 0.5
        x = step.alpha_bar_next**0.5 * x0 + max(1 - step.alpha_bar_next - std**2, 0.0) ** 0.5 * eps
        return x + std * noise(x.shape).to(x) if std > 0 else x

    return _all_steps(update, denoise, x, grid, before_step, on_step)


def ddpm(
    denoise: Denoise,
    x: Tensor,
    grid: SamplingGrid,
    *,
    noise: Noise,
    before_step: BeforeStep | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """DDPM algorithm 2 with the variance beta tilde, between the times of any grid; the last step adds no noise."""

    def update(x: Tensor, x0: Tensor, step: Step) -> Tensor:
        powers = step.alpha_bar, step.alpha_bar_next
        x = posterior_coef_x0(*powers) * x0 + posterior_coef_xt(*powers) * x
        if step.is_last:
            return x
        log_variance = math.log(max(posterior_beta(*powers), 1e-20))
        return x + math.exp(0.5 * log_variance) * noise(x.shape).to(x)

    return _all_steps(update, denoise, x, grid, before_step, on_step)


def dpmpp(
    denoise: Denoise,
    x: Tensor,
    grid: SamplingGrid,
    *,
    before_step: BeforeStep | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """DPM-Solver++(2M): the exponential integrator in lambda = log(alpha / sigma) on x0, extrapolated from the last two answers.

    First order where there is nothing to extrapolate from (the first step), where the extrapolation would run to infinity (the
    step to no noise), and at the last of fewer than 15 steps, which is steadier. Deterministic."""
    x0_before, lambda_before = None, -math.inf

    def update(x: Tensor, x0: Tensor, step: Step) -> Tensor:
        nonlocal x0_before, lambda_before
        lambda_, lambda_next = _half_log_snr(step.alpha_bar), _half_log_snr(step.alpha_bar_next)
        is_first_order = x0_before is None or step.alpha_bar_next == 1 or (step.is_last and len(grid) < 15)
        target = x0
        if not is_first_order:
            r = (lambda_ - lambda_before) / (lambda_next - lambda_)  # infinite after a start from pure noise: no extrapolation
            target = x0 + (x0 - x0_before) / (2 * r)
        x0_before, lambda_before = x0, lambda_
        return _exponential_step(x, target, step.alpha_bar, step.alpha_bar_next)

    return _all_steps(update, denoise, x, grid, before_step, on_step)


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ddpm": ddpm, "dpmpp": dpmpp}


@torch.no_grad()
def _all_steps(
    update: Update, denoise: Denoise, x: Tensor, grid: SamplingGrid, before_step: BeforeStep | None, on_step: OnStep | None
) -> Tensor:
    """From the noisiest time to the cleanest: ask for x0, update x."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    for i, time in enumerate(grid.times):
        x = x if before_step is None else before_step(x)
        t = torch.full((x.shape[0],), time, dtype=torch.long, device=x.device)
        x = update(x, denoise(x, t), Step(grid.alpha_bar[i], grid.alpha_bar[i + 1], is_last=i == len(grid) - 1))
        if on_step is not None:
            on_step(i + 1)
    return x


def _exponential_step(x: Tensor, x0: Tensor, alpha_bar: float, alpha_bar_next: float) -> Tensor:
    """x_next = (sigma_next / sigma) x - alpha_next (e^-h - 1) x0, with alpha_next e^-h = alpha sigma_next / sigma put in, so that
    neither a start from pure noise (h infinite) nor an end without any needs a case of its own."""
    ratio = ((1 - alpha_bar_next) / (1 - alpha_bar)) ** 0.5
    return ratio * x + (alpha_bar_next**0.5 - ratio * alpha_bar**0.5) * x0


def _half_log_snr(alpha_bar: float) -> float:
    """lambda = log(alpha / sigma), infinite at both ends."""
    if alpha_bar in (0.0, 1.0):
        return math.inf if alpha_bar == 1 else -math.inf
    return 0.5 * (math.log(alpha_bar) - math.log1p(-alpha_bar))
