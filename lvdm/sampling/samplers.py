"""From noise to sample: DDPM (sec. 2), DDIM (sec. 4), DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), Heun (Karras et al. 2022,
algorithm 1), UniPC (Zhao et al. 2023, algorithms 5 and 6).

Letters: x the sample at the current time, x0 the denoiser's answer, x = alpha x0 + sigma eps, lambda = log(alpha / sigma);
`_next` is the next, cleaner time. Samplers see denoise(x, t) -> x0, with t (b,), and a grid of times.

A sampler is a function of its options that returns `advance(x, step, x0_at) -> next x`, and a line in SAMPLERS that says what
it takes. `x0_at(x, t)` calls the network, at the step's time, its next time or between. The closure keeps what steps share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lvdm.diffusion.process import posterior_beta, posterior_coef_x0, posterior_coef_xt
from lvdm.sampling.timesteps import SamplingGrid, Step
from lvdm.types import Denoise, Noise

BeforeStep = Callable[[Tensor], Tensor]
OnStep = Callable[[int], None]
X0At = Callable[[Tensor, float], Tensor]  # (x, t) -> x0
Advance = Callable[[Tensor, Step, X0At], Tensor]


@dataclass(frozen=True)
class Sampler:
    """A way from noise to sample.

    Args:
        start: returns the `advance` of one sampling, given `eta` and `noise` if the sampler takes them.
        usual_steps: how many steps are usual; None visits all times of the schedule unless a number is given.
        takes_eta: whether `eta`, the randomness of a step from 0 to 1, has an effect.
        takes_noise: whether a step may have a random part.
        calls_per_step: calls of the network in one step.
    """

    name: str
    start: Callable[..., Advance]
    usual_steps: int | None
    takes_eta: bool = False
    takes_noise: bool = False
    calls_per_step: int = 1

    @torch.no_grad()
    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        grid: SamplingGrid,
        *,
        eta: float = 0.0,
        noise: Noise | None = None,
        before_step: BeforeStep | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Go down the grid from noise x, in float32 at least.

        Args:
            eta: randomness of a step, for a sampler that takes it.
            noise: standard normal for a shape, for a sampler that takes it.
            before_step: writes the given frames into x before each call of the network. The last update lies on top of them.
            on_step: called with the number of steps done.
        """
        options = {"eta": eta} if self.takes_eta else {}
        advance = self.start(**options, **({"noise": noise} if self.takes_noise else {}))

        def write(x: Tensor) -> Tensor:
            return x if before_step is None else before_step(x)

        def x0_at(x: Tensor, t: float) -> Tensor:
            return denoise(write(x), torch.full((len(x),), t, device=x.device))

        x = x.to(torch.promote_types(x.dtype, torch.float32))
        for done, step in enumerate(grid, start=1):
            x = advance(write(x), step, x0_at)
            if on_step is not None:
                on_step(done)
        return x

    def describe(self) -> str:
        """Return its name and cost, for help texts."""
        steps = "all steps" if self.usual_steps is None else f"{self.usual_steps} steps"
        return f"{self.name} ({steps}{', two calls each' if self.calls_per_step == 2 else ''})"


def ddim(*, eta: float = 0.0, noise: Noise | None = None) -> Advance:
    """DDIM eq. 12 and 16: eta = 0 is deterministic, eta = 1 is DDPM's posterior."""
    assert eta == 0 or noise is not None, "ddim with eta above 0 needs noise"

    def advance(x: Tensor, step: Step, x0_at: X0At) -> Tensor:
        x0 = x0_at(x, step.t)
        eps = (x - step.alpha * x0) / step.sigma
        std = eta * posterior_beta(step.alpha, step.sigma, step.alpha_next, step.sigma_next) ** 0.5
        x = step.alpha_next * x0 + max(step.sigma_next**2 - std**2, 0.0) ** 0.5 * eps
        return x + std * noise(x.shape).to(x) if noise is not None and std > 0 else x

    return advance


def ddpm(*, noise: Noise | None) -> Advance:
    """DDPM algorithm 2 with the variance beta tilde, between the times of any grid; the last step adds no noise."""
    assert noise is not None, "ddpm needs noise"

    def advance(x: Tensor, step: Step, x0_at: X0At) -> Tensor:
        ends = step.alpha, step.sigma, step.alpha_next, step.sigma_next
        x = posterior_coef_x0(*ends) * x0_at(x, step.t) + posterior_coef_xt(*ends) * x
        if step.is_last:
            return x
        log_variance = math.log(max(posterior_beta(*ends), 1e-20))
        return x + math.exp(0.5 * log_variance) * noise(x.shape).to(x)

    return advance


def dpmpp() -> Advance:
    """DPM-Solver++(2M): the exponential integrator in lambda on x0, extrapolated from the last two answers.

    First order if there is nothing to extrapolate from (the first step), if the extrapolation would run to infinity (the
    step to no noise), and at the last of fewer than 15 steps, which is steadier. Deterministic."""
    x0_before, lambda_before = None, -math.inf

    def advance(x: Tensor, step: Step, x0_at: X0At) -> Tensor:
        nonlocal x0_before, lambda_before
        x0 = target = x0_at(x, step.t)
        if not (x0_before is None or step.sigma_next == 0 or (step.is_last and step.num_steps < 15)):
            target = x0 + (x0 - x0_before) / (2 * _ratio(step, lambda_before))
        x0_before, lambda_before = x0, step.lambda_
        return _exponential_step(x, target, step)

    return advance


def heun() -> Advance:
    """Karras et al.'s algorithm 1 with s(u) = 1 - u and sigma(u) = u / (1 - u): the trapezoidal rule along the straight path.

    Any schedule is that path at another scale: y = x / (alpha + sigma) = (1 - u) x0 + u eps with u = sigma / (alpha + sigma).
    dy/du = eps - x0 is finite, also at pure noise. The step to no noise, where eps is not known, is Euler's."""

    def advance(x: Tensor, step: Step, x0_at: X0At) -> Tensor:
        scale, scale_next = step.alpha + step.sigma, step.alpha_next + step.sigma_next
        du = step.sigma_next / scale_next - step.sigma / scale
        x0 = x0_at(x, step.t)
        slope = (x - step.alpha * x0) / step.sigma - x0
        x_next = scale_next * (x / scale + du * slope)
        if step.sigma_next == 0:
            return x_next
        x0 = x0_at(x_next, step.t_next)
        slope_next = (x_next - step.alpha_next * x0) / step.sigma_next - x0
        return scale_next * (x / scale + du * (slope + slope_next) / 2)

    return advance


def unipc() -> Advance:
    """UniPC of order 2 with B(h) = e^h - 1 ("bh2") on x0: the predictor is DPM-Solver++(2M)'s step, and the answer at its end
    corrects it, which costs no further call. First order at both ends of the grid. Deterministic."""
    before: tuple[Tensor, Tensor, Step] | None = None  # x, x0 and the step before
    difference, ratio = None, math.inf  # (x0 - x0_before) and r of the step before, if it was of second order

    def advance(x: Tensor, step: Step, x0_at: X0At) -> Tensor:
        nonlocal before, difference, ratio
        x0 = x0_at(x, step.t)
        if before is not None:
            x_before, x0_before, step_before = before
            rho, rho_next = _corrector_weights(step_before, ratio) if difference is not None else (0.0, 0.5)
            target = x0_before + rho_next * (x0 - x0_before)
            target = target if difference is None else target + rho * difference / ratio
            x = _exponential_step(x_before, target, step_before)
        target, difference = x0, None
        if before is not None and not step.is_last:
            difference, ratio = x0 - x0_before, _ratio(step, step_before.lambda_)
            target = x0 + difference / (2 * ratio)
        before = x, x0, step
        return _exponential_step(x, target, step)

    return advance


SAMPLERS = {
    sampler.name: sampler
    for sampler in (
        Sampler("ddim", ddim, usual_steps=50, takes_eta=True, takes_noise=True),
        Sampler("ddpm", ddpm, usual_steps=None, takes_noise=True),
        Sampler("dpmpp", dpmpp, usual_steps=20),
        Sampler("heun", heun, usual_steps=20, calls_per_step=2),
        Sampler("unipc", unipc, usual_steps=20),
    )
}


def _ratio(step: Step, lambda_before: float) -> float:
    """Return r, the length in lambda of the step before over this one's; infinite after a start from pure noise."""
    return (step.lambda_ - lambda_before) / (step.lambda_next - step.lambda_)


def _corrector_weights(step: Step, ratio: float) -> tuple[float, float]:
    """Return the weights of (x0 - x0_before) / r and of (x0_next - x0) in UniC-2, which solve its 2 x 2 system."""
    h = step.lambda_next - step.lambda_
    phi_1 = math.expm1(-h) / -h - 1
    b_1, b_2 = phi_1 / math.expm1(-h), (phi_1 / -h - 0.5) * 2 / math.expm1(-h)
    rho = (b_1 - b_2) / (1 + ratio)
    return rho, b_1 - rho


def _exponential_step(x: Tensor, x0: Tensor, step: Step) -> Tensor:
    """x_next = (sigma_next / sigma) x - alpha_next (e^-h - 1) x0, with alpha_next e^-h = alpha sigma_next / sigma put in, so that
    neither a start from pure noise (h infinite) nor an end without any needs a case of its own."""
    ratio = step.sigma_next / step.sigma
    return ratio * x + (step.alpha_next - ratio * step.alpha) * x0
