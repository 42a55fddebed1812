"""Samplers against closed forms and against diffusers.

An exact Gaussian denoiser, for data x0 ~ N(m, s^2), makes every sampler an affine map of its start and its noises. So moments
need no random numbers: run it once on zeros, once on a unit of each input, and add the squares.
"""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from lvdm.diffusion.guidance import guided, predict_x0
from lvdm.diffusion.masks import write_frames
from lvdm.diffusion.objectives import EpsObjective, FlowObjective, VObjective, X0Objective
from lvdm.diffusion.schedules import Cosine, Linear, RectifiedFlow, SqrtLinear
from lvdm.sampling.noise import VideoNoise
from lvdm.sampling.samplers import SAMPLERS, Sampler
from lvdm.sampling.solver import make_solver
from lvdm.sampling.timesteps import SamplingGrid, Step, grid_at, make_grid, published_grid, trailing_grid
from lvdm.types import DenoiserInputs, UserError

MEAN, STD = 0.7, 0.5
OBJECTIVES = {"eps": EpsObjective(), "x0": X0Objective(), "v": VObjective(), "flow": FlowObjective()}
PLAIN = {"sqrt_linear": SqrtLinear(), "linear": Linear(), "cosine": Cosine()}
SCHEDULES = {
    **PLAIN,
    **{f"{name}_shift": type(plain)(snr_shift=2.0) for name, plain in PLAIN.items()},
    **{f"{name}_zero": type(plain)(zero_terminal_snr=True) for name, plain in PLAIN.items()},
    "cosine_zero_shift": Cosine(zero_terminal_snr=True, snr_shift=2.0),
    "flow": RectifiedFlow(),
    "flow_shift": RectifiedFlow(sampling_shift=3.0),
}
PAIRS = [(s, o) for s, schedule in SCHEDULES.items() for o, objective in OBJECTIVES.items() if objective.misfit(schedule) is None]
WAYS = [(name, 0.0) for name in SAMPLERS] + [(name, 1.0) for name, sampler in SAMPLERS.items() if sampler.takes_eta]


class ExactNetwork:
    """Bayes' answer for x0 ~ N(MEAN, STD^2), given as eps, x0, v or velocity."""

    inputs = DenoiserInputs()

    def __init__(self, schedule, says: str) -> None:
        self.schedule, self.says = schedule, says

    def __call__(self, x, t, cond=None):
        alpha, sigma = self.schedule.alpha_sigma(t, x)
        x0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)
        if self.says == "x0":
            return x0
        eps = (x - alpha * x0) / sigma
        return OBJECTIVES[self.says].target(x0, eps, t, self.schedule)


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


def marginal(alpha: float, sigma: float) -> tuple[float, float]:
    """Mean and variance of x_t."""
    return alpha * MEAN, alpha**2 * STD**2 + sigma**2


def moments(name, schedule, says, grid, eta=0.0) -> tuple[float, float]:
    """Mean and variance of what a sampler makes from the true distribution at the grid's first time."""
    mean, variance = marginal(grid.alpha[0], grid.sigma[0])
    start = torch.full((len(grid) + 2, 1), mean, dtype=torch.float64)
    start[1] += variance**0.5
    out = SAMPLERS[name](exact_denoise(schedule, says), start, grid, eta=eta, noise=Impulses())[:, 0]
    return float(out[0]), float(((out[1:] - out[0]) ** 2).sum())


def without_last(grid: SamplingGrid) -> SamplingGrid:
    return SamplingGrid(grid.times[:-1], grid.alpha[:-1], grid.sigma[:-1])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("name", "eta"), WAYS)
def test_exact_gaussian_denoiser_gives_the_true_moments(name, eta, schedule):
    """Down 1000 times but the last jump to no noise, which would ask more of a denoiser than it can know. The variance is right
    to 7% with random steps, to 2% with DDIM's, to .4% for second order (measured); a shifted grid is coarser at its start."""
    grid = without_last(trailing_grid(SCHEDULES[schedule], 1000))
    mean, variance = moments(name, SCHEDULES[schedule], "x0", grid, eta)
    true_mean, true_variance = marginal(grid.alpha[-1], grid.sigma[-1])
    is_random, is_first_order = SAMPLERS[name].takes_noise and (eta > 0 or not SAMPLERS[name].takes_eta), name in ("ddim", "ddpm")
    assert mean == pytest.approx(true_mean, abs=1e-8)  # real times are float32
    assert variance == pytest.approx(true_variance, rel=0.07 if is_random else 0.02 if is_first_order else 0.004)


@pytest.mark.parametrize(("schedule", "says"), PAIRS)
@pytest.mark.parametrize(("name", "eta"), WAYS)
def test_what_the_network_predicts_makes_no_difference(name, eta, schedule, says):
    grid = trailing_grid(SCHEDULES[schedule], 20)
    got = moments(name, SCHEDULES[schedule], says, grid, eta)
    assert got == pytest.approx(moments(name, SCHEDULES[schedule], "x0", grid, eta), rel=1e-7)


@pytest.mark.parametrize("spacing", ["published", "trailing"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_known_x0_gives_every_marginal_exactly_in_any_number_of_steps(eta, schedule, spacing):
    """DDIM lemma 1: whatever eta, x_t stays N(alpha x0, sigma^2)."""
    if "flow" in schedule and spacing == "published":
        pytest.skip("a continuous schedule has no published spacing")
    for steps in (2, 7, 50):
        grid = make_grid(SCHEDULES[schedule], steps, spacing)
        start = torch.full((len(grid) + 2, 1), grid.alpha[0] * MEAN, dtype=torch.float64)
        start[1] += grid.sigma[0]
        out = SAMPLERS["ddim"](lambda x, t: torch.full_like(x, MEAN), start, grid, eta=eta, noise=Impulses())[:, 0]
        assert float(out[0]) == pytest.approx(grid.alpha[-1] * MEAN, abs=1e-9)
        assert float(((out[1:] - out[0]) ** 2).sum()) == pytest.approx(grid.sigma[-1] ** 2, abs=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_with_eta_one_is_ddpm(schedule):
    schedule = SCHEDULES[schedule]
    grid = trailing_grid(schedule, 13)
    x = torch.randn(3, 2, 5, dtype=torch.float64)
    denoise = exact_denoise(schedule)
    left = SAMPLERS["ddim"](denoise, x, grid, eta=1.0, noise=VideoNoise(1, range(3)))
    right = SAMPLERS["ddpm"](denoise, x, grid, noise=VideoNoise(1, range(3)))
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", ["vp", "straight"])
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp", 2), ("heun", 2), ("unipc", 2)])
def test_a_sampler_converges_with_its_order(name, order, path):
    """Against the probability flow's closed form: x - alpha m keeps its place in units of the marginal's deviation.

    UniPC is better than its order for few steps: its last step alone is not corrected."""
    errors = []
    for steps in (320, 640, 1280):
        grid = smooth_grid(steps, path)
        start_mean, start_variance = marginal(grid.alpha[0], grid.sigma[0])
        end_mean, end_variance = marginal(grid.alpha[-1], grid.sigma[-1])
        exact = end_mean + (1.7 - start_mean) * (end_variance / start_variance) ** 0.5
        x = SAMPLERS[name](exact_on_grid(grid), torch.tensor([[1.7]], dtype=torch.float64), grid)
        errors.append(abs(float(x) - exact))
    orders = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]
    assert orders == pytest.approx([order, order], abs=0.3 if name == "unipc" else 0.05)


def smooth_grid(steps: int, path: str) -> SamplingGrid:
    """Even steps in lambda from -3 to 3, where neither end is singular."""
    ratios = [math.exp(-3 + 6 * i / steps) for i in range(steps + 1)]
    scales = [1 + ratio if path == "straight" else (1 + ratio**2) ** 0.5 for ratio in ratios]
    alpha = [ratio / scale for ratio, scale in zip(ratios, scales, strict=True)]
    return SamplingGrid(tuple(range(steps, -1, -1)), tuple(alpha), tuple(1 / scale for scale in scales))


def exact_on_grid(grid: SamplingGrid):
    def denoise(x, t):
        i = grid.times.index(int(t[0]))
        mean, variance = marginal(grid.alpha[i], grid.sigma[i])
        return MEAN + grid.alpha[i] * STD**2 / variance * (x - mean)

    return denoise


def test_on_a_straight_path_ddim_is_euler_and_heun_is_the_trapezoid():
    """dx/du = eps - x0, integrated here without any of the samplers' formulas, from pure noise to no noise."""
    schedule, x = RectifiedFlow(sampling_shift=2.0), torch.randn(2, 6, dtype=torch.float64)
    grid = trailing_grid(schedule, 9)
    us = [t / 1000 for t in grid.times]

    def velocity(x, u):
        return torch.tanh(2 * x) + u

    def denoise(x, t):
        return FlowObjective().x0(velocity(x, t[0].double() / 1000), x, t.double(), schedule)

    euler = trapezoid = x
    for u, u_next in zip(us, us[1:], strict=False):
        euler = euler + (u_next - u) * velocity(euler, u)
        slope = velocity(trapezoid, u)
        ahead = trapezoid + (u_next - u) * slope
        trapezoid = trapezoid + (u_next - u) * (slope if u_next == 0 else (slope + velocity(ahead, u_next)) / 2)
    for name, expected in (("ddim", euler), ("heun", trapezoid)):
        torch.testing.assert_close(SAMPLERS[name](denoise, x, grid), expected, rtol=1e-6, atol=1e-6)  # t is float32


def noted(denoise, seen):
    """The denoiser, which keeps what it is asked."""

    def ask(x, t):
        seen.append(x)
        return denoise(x, t)

    return ask


@pytest.mark.parametrize("name", ["dpmpp", "unipc"])
@pytest.mark.parametrize(
    ("steps", "spacing"), [(2, "trailing"), (4, "published"), (25, "published"), (8, "trailing"), (40, "trailing")]
)
@pytest.mark.parametrize("schedule", [*PLAIN, "flow"])
def test_multistep_solvers_are_diffusers_step_by_step(schedule, steps, spacing, name):
    if schedule == "flow":
        grid = grid_at(
            SCHEDULES[schedule], [990 * (1 - i / steps) for i in range(steps + 1)]
        )  # theirs cannot start without signal
    else:
        grid = make_grid(SCHEDULES[schedule], steps, spacing)
    reference, ours, theirs = diffusers_scheduler(name, grid, is_flow=schedule == "flow"), [], []

    def answer(x, t):  # a bend that no solver order could hide, unlike a denoiser that is linear in x
        return torch.tanh(3 * x + 0.001 * float(t.flatten()[0]))

    x = torch.randn(2, 6, dtype=torch.float64)
    ours.append(SAMPLERS[name](noted(answer, ours), x, grid))
    for t in grid.times[:-1]:
        theirs.append(x)
        x = reference.step(answer(x, torch.tensor(t)), t, x).prev_sample
    theirs.append(x)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


def diffusers_scheduler(name: str, grid: SamplingGrid, *, is_flow: bool):
    """Diffusers' scheduler on our grid, in float64: it rounds its sigmas and its sample to float32, which is undone here."""
    import diffusers

    final = {"final_sigmas_type": "zero" if grid.sigma[-1] == 0 else "sigma_min", "use_flow_sigmas": is_flow}
    if name == "unipc":
        scheduler = diffusers.UniPCMultistepScheduler(prediction_type="sample", solver_order=2, solver_type="bh2", **final)
    else:
        scheduler = Exact(prediction_type="sample", algorithm_type="dpmsolver++", solver_order=2, **final)
    scheduler.set_timesteps(len(grid))
    scheduler.num_inference_steps = len(grid)
    scheduler.timesteps = torch.tensor(grid.times[:-1])
    sigmas = [sigma if is_flow else sigma / alpha for alpha, sigma in zip(grid.alpha, grid.sigma, strict=True)]
    scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    return scheduler


class Exact(DPMSolverMultistepScheduler):
    def step(self, model_output, timestep, sample):
        self.exact_sample = sample
        return super().step(model_output, timestep, sample)

    def dpm_solver_first_order_update(self, model_output, sample=None, noise=None):
        return super().dpm_solver_first_order_update(model_output, sample=self.exact_sample, noise=noise)

    def multistep_dpm_solver_second_order_update(self, model_outputs, sample=None, noise=None):
        return super().multistep_dpm_solver_second_order_update(model_outputs, sample=self.exact_sample, noise=noise)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", [Cosine(zero_terminal_snr=True), RectifiedFlow()], ids=["vp", "flow"])
def test_no_signal_at_the_start_is_the_limit_of_little_signal(name, schedule):
    zero = trailing_grid(schedule, 12)
    little = SamplingGrid(zero.times, (1e-9, *zero.alpha[1:]), zero.sigma)
    x = torch.randn(2, 6, dtype=torch.float64)
    answers = [SAMPLERS[name](lambda x, t: torch.tanh(3 * x), x, grid, noise=VideoNoise(0, [0, 1])) for grid in (zero, little)]
    assert torch.isfinite(answers[0]).all()
    torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", [Linear(), RectifiedFlow()], ids=["vp", "flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_an_end_without_noise_returns_the_last_x0(name, schedule):
    answers = []

    def denoise(x, t):
        answers.append(torch.tanh(x))
        return answers[-1]

    out = SAMPLERS[name](denoise, torch.randn(1, 4), trailing_grid(schedule, 9), noise=VideoNoise(0, [0]))
    torch.testing.assert_close(out, answers[-1], rtol=0, atol=1e-6)
    assert len(answers) == 9 + 8 * (SAMPLERS[name].calls_per_step - 1), "the last step is one call"


@pytest.mark.parametrize("name", SAMPLERS)
def test_given_frames_are_written_before_every_call_and_not_after_the_last(name):
    grid = published_grid(SqrtLinear(), 5)
    frames, mask = torch.full((1, 1, 4, 1, 1), 9.0), torch.tensor([1.0, 0, 0, 0]).view(1, 1, 4, 1, 1)
    seen, done = [], []

    def denoise(x, t):
        assert t.dtype == torch.long and t.shape == (1,)
        seen.append((int(t), x[0, 0, :, 0, 0].tolist()))
        return 0.5 * x

    start = torch.randn(1, 1, 4, 1, 1)
    kept = start.clone()
    writes = {"before_step": lambda x: write_frames(x, frames, mask), "on_step": done.append, "noise": VideoNoise(0, [0])}
    out = SAMPLERS[name](denoise, start, grid, **writes)
    visited = [t for step in grid for t in (step.t, step.t_next)[: SAMPLERS[name].calls_per_step]]
    assert [t for t, _ in seen] == visited and grid.times == (801, 601, 401, 201, 1, 0)
    assert all(x[0] == 9 and 9 not in x[1:] for _, x in seen)
    assert 9 not in out, "the last update is on the given frames too"
    assert done == [1, 2, 3, 4, 5]
    assert torch.equal(start, kept), "the caller's start is left as found"


@pytest.mark.parametrize(("name", "eta", "draws"), [("ddpm", 0.0, 4), ("ddim", 1.0, 5), ("ddim", 0.0, 0)])
def test_ddpm_adds_no_noise_at_the_last_step_and_published_ddim_does(name, eta, draws):
    """Published spacing ends at alpha_bar[0], where DDIM's sigma is not 0 yet."""
    grid, noise = published_grid(SqrtLinear(), 5), Impulses()
    SAMPLERS[name](lambda x, t: torch.tanh(x), torch.zeros(9, 1), grid, noise=noise, eta=eta)
    assert noise.calls == draws


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_work_in_float32_on_a_bfloat16_start_and_keep_no_gradient(name):
    x = torch.randn(1, 4, dtype=torch.bfloat16)
    scale = torch.ones((), requires_grad=True)
    out = SAMPLERS[name](lambda x, t: scale * x, x, published_grid(SqrtLinear(), 4), noise=VideoNoise(0, [0]))
    assert out.dtype == torch.float32 and not out.requires_grad


def test_a_sampler_of_ones_own_is_a_function_and_a_line(monkeypatch):
    """The midpoint rule on the straight path, which asks the network between two times."""

    def midpoint():
        def advance(x, step: Step, x0_at):
            t = (step.t + step.t_next) / 2
            slope = (x - x0_at(x, step.t)) / step.sigma
            ahead = x + (t - step.t) / 1000 * slope
            return x + (step.t_next - step.t) / 1000 * (ahead - x0_at(ahead, t)) / (t / 1000)

        return advance

    monkeypatch.setitem(SAMPLERS, "midpoint", Sampler("midpoint", midpoint, usual_steps=20, calls_per_step=2))
    mean, variance = moments("midpoint", RectifiedFlow(), "flow", without_last(trailing_grid(RectifiedFlow(), 500)))
    assert (mean, variance) == pytest.approx(marginal(0.998, 0.002), rel=1e-3)
    assert make_solver(RectifiedFlow(), "midpoint", steps=4, spacing="trailing").sampler.calls_per_step == 2


def test_a_sampler_that_does_not_fit_is_refused_in_a_sentence():
    for wrong, words in [
        ({"sampler": "ddpm", "spacing": "trailing"}, "RectifiedFlow is continuous; give a number of steps"),
        ({"sampler": "heun", "steps": 5, "spacing": "published"}, "RectifiedFlow is continuous; give spacing trailing"),
        ({"sampler": "heun", "steps": 5, "eta": 0.5}, "heun has no eta; leave it out or take the sampler ddim"),
        ({"sampler": "unipc"}, "unipc needs a number of steps; 20 is usual"),
    ]:
        with pytest.raises(UserError, match=words):
            make_solver(RectifiedFlow(), **wrong)
