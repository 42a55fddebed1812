"""From noise to sample: DDPM (sec. 2), DDIM (sec. 4), DPM-Solver++(2M) (Lu et al. 2022, algorithm 2).

Letters: x the sample at the current time, x0 the denoiser's answer, alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), eps
the noise that x and x0 imply; `_next` is the next, cleaner time. Samplers see denoise(x, t) -> x0, with t (b,), and a grid.

All share: `before_step`, which writes the given frames into x before each call of the network; the write stays (after the last
step there is none, so given frames come back with the last update on them); `on_step`, told the number of steps done. Where a
step has a random part, `noise` gives standard normal for a shape. They work in float32 at least, and without gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lvdm.diffusion.process import posterior_beta, posterior_coef_x0, posterior_coef_xt
from lvdm.sampling.grid import SamplingGrid
from lvdm.types import Denoise, Noise

BeforeStep = Callable[[Tensor], Tensor]
OnStep = Callable[[int], None]
Sampler = Callable[..., Tensor]  # (denoise, x, grid, *, before_step, on_step, and its own: ddim eta noise, ddpm noise) -> x


@torch.no_grad()
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
    x = _at_least_float32(x)
    for i, t, alpha_bar, alpha_bar_next in _steps(grid, x):
        x = x if before_step is None else before_step(x)
        x0 = denoise(x, t)
        eps = (x - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
        std = eta * posterior_beta(alpha_bar, alpha_bar_next) ** 0.5
        x = alpha_bar_next**0.5 * x0 + max(1 - alpha_bar_next - std**2, 0.0) ** 0.5 * eps
        if std > 0:
            x = x + std * noise(x.shape).to(x)
        _report(on_step, i + 1)
    return x


@torch.no_grad()
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
    x = _at_least_float32(x)
    for i, t, alpha_bar, alpha_bar_next in _steps(grid, x):
        x = x if before_step is None else before_step(x)
        x0 = denoise(x, t)
        x = posterior_coef_x0(alpha_bar, alpha_bar_next) * x0 + posterior_coef_xt(alpha_bar, alpha_bar_next) * x
        is_last = i == len(grid) - 1
        if not is_last:
            log_variance = math.log(max(posterior_beta(alpha_bar, alpha_bar_next), 1e-20))
            x = x + math.exp(0.5 * log_variance) * noise(x.shape).to(x)
        _report(on_step, i + 1)
    return x


@torch.no_grad()
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
    x = _at_least_float32(x)
    x0_before, lambda_before = None, -math.inf
    for i, t, alpha_bar, alpha_bar_next in _steps(grid, x):
        x = x if before_step is None else before_step(x)
        x0 = denoise(x, t)
        lambda_, lambda_next = _half_log_snr(alpha_bar), _half_log_snr(alpha_bar_next)
        is_last = i == len(grid) - 1
        is_first_order = x0_before is None or alpha_bar_next == 1 or (is_last and len(grid) < 15)
        target = x0
        if not is_first_order:
            r = (lambda_ - lambda_before) / (lambda_next - lambda_)  # infinite after a start from pure noise: no extrapolation
            target = x0 + (x0 - x0_before) / (2 * r)
        x = _exponential_step(x, target, alpha_bar, alpha_bar_next)
        x0_before, lambda_before = x0, lambda_
        _report(on_step, i + 1)
    return x


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ddpm": ddpm, "dpmpp": dpmpp}


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


def _steps(grid: SamplingGrid, x: Tensor) -> Iterator[tuple[int, Tensor, float, float]]:
    """(i, t (b,), alpha_bar there, alpha_bar next) for every step."""
    for i, time in enumerate(grid.times):
        t = torch.full((x.shape[0],), time, dtype=torch.long, device=x.device)
        yield i, t, grid.alpha_bar[i], grid.alpha_bar[i + 1]


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _report(on_step: OnStep | None, done: int) -> None:
    if on_step is not None:
        on_step(done)
