"""Samplers against closed forms and against diffusers.

An exact Gaussian denoiser, for data x0 ~ N(m, s^2), makes every sampler an affine map of its start and its noises. So moments
need no random numbers: run it once on zeros, once on a unit of each input, and add the squares.
"""

from __future__ import annotations

import math

import pytest
import torch

from lvdm.diffusion.guidance import guided, predict_x0
from lvdm.diffusion.masks import write_frames
from lvdm.diffusion.objectives import EpsObjective, VObjective, X0Objective
from lvdm.diffusion.process import v_from_x0_eps
from lvdm.diffusion.schedules import Cosine, Linear, SqrtLinear
from lvdm.sampling.noise import VideoNoise
from lvdm.sampling.samplers import SAMPLERS, ddim, ddpm, dpmpp
from lvdm.sampling.timesteps import SamplingGrid, full_grid, make_grid, published_grid, trailing_grid
from lvdm.types import DenoiserInputs

MEAN, STD = 0.7, 0.5
OBJECTIVES = {"eps": EpsObjective(), "x0": X0Objective(), "v": VObjective()}
PLAIN = {"sqrt_linear": SqrtLinear(), "linear": Linear(), "cosine": Cosine()}
SCHEDULES = {
    **PLAIN,
    **{f"{name}_shift": type(plain)(snr_shift=2.0) for name, plain in PLAIN.items()},
    **{f"{name}_zero": type(plain)(zero_terminal_snr=True) for name, plain in PLAIN.items()},
    "cosine_zero_shift": Cosine(zero_terminal_snr=True, snr_shift=2.0),
}
PAIRS = [(s, o) for s in SCHEDULES for o in OBJECTIVES if not (o == "eps" and "zero" in s)]


class ExactNetwork:
    """Bayes' answer for x0 ~ N(MEAN, STD^2), said as eps, x0 or v."""

    inputs = DenoiserInputs()

    def __init__(self, schedule, says: str) -> None:
        self.schedule, self.says = schedule, says

    def __call__(self, x, t, cond=None):
        alpha, sigma = self.schedule.alpha_sigma(t, x)
        x0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)
        if self.says == "x0":
            return x0
        eps = (x - alpha * x0) / sigma
        return eps if self.says == "eps" else v_from_x0_eps(x0, eps, t, self.schedule)


def exact_denoise(schedule, says="x0"):
    return guided(predict_x0(ExactNetwork(schedule, says), OBJECTIVES[says], schedule), None, scale=0.0)


class Impulses:
    """Noise that is zero but for the k-th call's row k + 2, which is one."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, shape):
        noise = torch.zeros(shape, dtype=torch.float64)
        noise[self.calls + 2] = 1
        self.calls += 1
        return noise


def marginal(alpha_bar: float) -> tuple[float, float]:
    """Mean and variance of x_t."""
    return alpha_bar**0.5 * MEAN, alpha_bar * STD**2 + 1 - alpha_bar


def moments(sampler, schedule, says, grid, **options) -> tuple[float, float]:
    """Mean and variance of what a sampler makes from the true distribution at the grid's first time."""
    mean, variance = marginal(grid.alpha_bar[0])
    start = torch.full((len(grid) + 2, 1), mean, dtype=torch.float64)
    start[1] += variance**0.5
    out = sampler(exact_denoise(schedule, says), start, grid, **options)[:, 0]
    return float(out[0]), float(((out[1:] - out[0]) ** 2).sum())


def settings_of(name: str) -> dict:
    return {"ddpm": {"noise": Impulses()}, "ddim0": {}, "ddim1": {"eta": 1.0, "noise": Impulses()}, "dpmpp": {}}[name]


TOLERANCE = {
    "ddpm": 0.07,
    "ddim0": 0.02,
    "ddim1": 0.07,
    "dpmpp": 0.004,
}  # of the variance, at 1000 steps; first order but the last


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", TOLERANCE)
def test_exact_gaussian_denoiser_gives_the_true_moments(name, schedule):
    """Down all times but the last jump to no noise, which would ask more of a denoiser than it can know."""
    every = full_grid(SCHEDULES[schedule])
    grid = SamplingGrid(every.times[:-1], every.alpha_bar[:-1])
    mean, variance = moments(SAMPLERS[name.rstrip("01")], SCHEDULES[schedule], "x0", grid, **settings_of(name))
    true_mean, true_variance = marginal(grid.alpha_bar[-1])
    assert mean == pytest.approx(true_mean, abs=1e-9)
    assert variance == pytest.approx(true_variance, rel=TOLERANCE[name])


@pytest.mark.parametrize(("schedule", "says"), PAIRS)
@pytest.mark.parametrize("name", TOLERANCE)
def test_what_the_network_predicts_makes_no_difference(name, schedule, says):
    grid = trailing_grid(SCHEDULES[schedule], 20)
    sampler = SAMPLERS[name.rstrip("01")]
    got = moments(sampler, SCHEDULES[schedule], says, grid, **settings_of(name))
    assert got == pytest.approx(moments(sampler, SCHEDULES[schedule], "x0", grid, **settings_of(name)), rel=1e-7)


@pytest.mark.parametrize("make", [published_grid, trailing_grid])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_known_x0_gives_every_marginal_exactly_in_any_number_of_steps(eta, schedule, make):
    """DDIM lemma 1: whatever eta, x_t stays N(alpha x0, sigma^2)."""
    schedule = SCHEDULES[schedule]
    for steps in (2, 7, 50):
        grid = make(schedule, steps)
        first, last = grid.alpha_bar[0], grid.alpha_bar[-1]
        start = torch.full((len(grid) + 2, 1), first**0.5 * MEAN, dtype=torch.float64)
        start[1] += (1 - first) ** 0.5
        out = ddim(lambda x, t: torch.full_like(x, MEAN), start, grid, eta=eta, noise=Impulses())[:, 0]
        assert float(out[0]) == pytest.approx(last**0.5 * MEAN, abs=1e-9)
        assert float(((out[1:] - out[0]) ** 2).sum()) == pytest.approx(1 - last, abs=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_with_eta_one_is_ddpm(schedule):
    schedule = SCHEDULES[schedule]
    grid = trailing_grid(schedule, 13)
    x = torch.randn(3, 2, 5, dtype=torch.float64)
    denoise = exact_denoise(schedule)
    left = ddim(denoise, x, grid, eta=1.0, noise=VideoNoise(1, range(3)))
    right = ddpm(denoise, x, grid, noise=VideoNoise(1, range(3)))
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


def test_dpmpp_converges_with_order_two_and_ddim_with_order_one():
    """Against the probability flow's closed form: x - alpha m keeps its place in units of the marginal's deviation."""
    assert convergence_orders(ddim) == pytest.approx([1, 1], abs=0.05)
    assert convergence_orders(dpmpp) == pytest.approx([2, 2], abs=0.05)


def convergence_orders(sampler) -> list[float]:
    errors = []
    for steps in (40, 80, 160):
        lambdas = [-4 + 7 * i / steps for i in range(steps + 1)]
        grid = SamplingGrid(tuple(range(steps, 0, -1)), tuple(1 / (1 + math.exp(-2 * lambda_)) for lambda_ in lambdas))
        (start_mean, start_variance), (end_mean, end_variance) = marginal(grid.alpha_bar[0]), marginal(grid.alpha_bar[-1])
        exact = end_mean + (1.7 - start_mean) * (end_variance / start_variance) ** 0.5
        x = sampler(exact_on_grid(grid), torch.tensor([[1.7]], dtype=torch.float64), grid)
        errors.append(abs(float(x) - exact))
    return [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]


def exact_on_grid(grid: SamplingGrid):
    at = dict(zip(grid.times, grid.alpha_bar, strict=False))

    def denoise(x, t):
        alpha_bar = at[int(t[0])]
        return MEAN + alpha_bar**0.5 * STD**2 / marginal(alpha_bar)[1] * (x - alpha_bar**0.5 * MEAN)

    return denoise


@pytest.mark.parametrize(
    ("steps", "spacing"), [(4, "published"), (10, "published"), (25, "published"), (8, "trailing"), (40, "trailing")]
)
@pytest.mark.parametrize("schedule", PLAIN)
def test_dpmpp_is_diffusers_step_by_step(schedule, steps, spacing):
    schedule = SCHEDULES[schedule]
    grid = make_grid(schedule, steps, spacing)
    reference = exact_diffusers_scheduler(schedule, grid)
    # A bend that no solver order could hide, unlike a denoiser that is linear in x.
    ours, theirs = [], []

    def denoise(x, t):
        ours.append(x)
        return torch.tanh(3 * x + 0.001 * t[:, None].double())

    x = torch.randn(2, 6, dtype=torch.float64)
    ours.append(dpmpp(denoise, x, grid))
    for t in grid.times:
        theirs.append(x)
        x = reference.step(torch.tanh(3 * x + 0.001 * t), t, x).prev_sample
    theirs.append(x)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)


def exact_diffusers_scheduler(schedule, grid: SamplingGrid):
    """Diffusers' scheduler on our grid, in float64: it rounds its sigmas and its sample to float32, which is undone here."""
    from diffusers import DPMSolverMultistepScheduler

    class Exact(DPMSolverMultistepScheduler):
        def step(self, model_output, timestep, sample):
            self.exact_sample = sample
            return super().step(model_output, timestep, sample)

        def dpm_solver_first_order_update(self, model_output, sample=None, noise=None):
            return super().dpm_solver_first_order_update(model_output, sample=self.exact_sample, noise=noise)

        def multistep_dpm_solver_second_order_update(self, model_outputs, sample=None, noise=None):
            return super().multistep_dpm_solver_second_order_update(model_outputs, sample=self.exact_sample, noise=noise)

    final = "zero" if grid.alpha_bar[-1] == 1 else "sigma_min"
    scheduler = Exact(prediction_type="sample", algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type=final)
    scheduler.alphas_cumprod = schedule.table
    scheduler.set_timesteps(timesteps=list(grid.times))
    sigmas = torch.tensor([((1 - a) / a) ** 0.5 for a in grid.alpha_bar], dtype=torch.float64)
    torch.testing.assert_close(scheduler.sigmas.double(), sigmas, rtol=1e-5, atol=1e-7)
    scheduler.sigmas = sigmas
    return scheduler


@pytest.mark.parametrize("name", ["ddim", "dpmpp"])
def test_zero_terminal_snr_is_the_limit_of_little_signal(name):
    zero = trailing_grid(Cosine(zero_terminal_snr=True), 12)
    little = SamplingGrid(zero.times, (1e-18, *zero.alpha_bar[1:]))
    x = torch.randn(2, 6, dtype=torch.float64)
    answers = [SAMPLERS[name](lambda x, t: torch.tanh(3 * x), x, grid) for grid in (zero, little)]
    assert torch.isfinite(answers[0]).all()
    torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_end_without_noise_returns_the_last_x0(name):
    answers = []

    def denoise(x, t):
        answers.append(torch.tanh(x))
        return answers[-1]

    noise = {} if name == "dpmpp" else {"noise": VideoNoise(0, [0])}
    out = SAMPLERS[name](denoise, torch.randn(1, 4), trailing_grid(Linear(), 9), **noise)
    torch.testing.assert_close(out, answers[-1], rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", SAMPLERS)
def test_given_frames_are_written_before_every_call_and_not_after_the_last(name):
    grid = published_grid(SqrtLinear(), 5)
    frames, mask = torch.full((1, 1, 4, 1, 1), 9.0), torch.tensor([1.0, 0, 0, 0]).view(1, 1, 4, 1, 1)
    seen, done = [], []

    def denoise(x, t):
        assert t.dtype == torch.long and t.shape == (1,)
        seen.append((int(t), x[0, 0, :, 0, 0].tolist()))
        return 0.5 * x

    noise = {} if name == "dpmpp" else {"noise": VideoNoise(0, [0])}
    start = torch.randn(1, 1, 4, 1, 1)
    kept = start.clone()
    out = SAMPLERS[name](denoise, start, grid, before_step=lambda x: write_frames(x, frames, mask), on_step=done.append, **noise)
    assert [t for t, _ in seen] == list(grid.times) == [801, 601, 401, 201, 1]
    assert all(x[0] == 9 and 9 not in x[1:] for _, x in seen)
    assert 9 not in out, "the last update is on the given frames too"
    assert done == [1, 2, 3, 4, 5]
    assert torch.equal(start, kept), "the caller's start is left as found"


@pytest.mark.parametrize(("name", "draws"), [("ddpm", 4), ("ddim", 5)])
def test_ddpm_adds_no_noise_at_the_last_step_and_published_ddim_does(name, draws):
    """Published spacing ends at alpha_bar[0], where DDIM's sigma is not 0 yet."""
    grid, noise = published_grid(SqrtLinear(), 5), Impulses()
    eta = {"eta": 1.0} if name == "ddim" else {}
    SAMPLERS[name](lambda x, t: torch.tanh(x), torch.zeros(9, 1), grid, noise=noise, **eta)
    assert noise.calls == draws


def test_samplers_work_in_float32_on_a_bfloat16_start_and_keep_no_gradient():
    x = torch.randn(1, 4, dtype=torch.bfloat16)
    scale = torch.ones((), requires_grad=True)
    out = ddim(lambda x, t: scale * x, x, published_grid(SqrtLinear(), 4))
    assert out.dtype == torch.float32 and not out.requires_grad
