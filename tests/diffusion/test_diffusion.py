"""Schedules, the process, objectives, losses and weights: closed forms, inverses and recorded values."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lvdm.diffusion import process
from lvdm.diffusion.loss_weights import MinSNRWeight, UniformWeight
from lvdm.diffusion.losses import L1Loss, L2Loss
from lvdm.diffusion.objectives import EpsObjective, FlowObjective, VObjective, X0Objective, check_compatible
from lvdm.diffusion.schedules import Cosine, Linear, RectifiedFlow, SqrtLinear
from lvdm.types import UserError

SCHEDULES = [SqrtLinear, Linear, Cosine]
OBJECTIVES = [EpsObjective(), X0Objective(), VObjective()]


def named(value) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


def snr(schedule) -> torch.Tensor:
    return schedule.table / (1 - schedule.table)


# Schedules -----------------------------------------------------------------------------------------------------------


def test_sqrt_linear_tables_are_the_published(parity):
    """Recorded in float32, so equal to float32's rounding."""
    recorded, schedule = load_file(parity("lvdm_schedule.safetensors")), SqrtLinear()
    below = torch.cat([torch.ones(1, dtype=torch.float64), schedule.table[:-1]])
    t = torch.arange(1000)
    ends = schedule.alpha(t), schedule.sigma(t), schedule.alpha(t - 1), schedule.sigma(t - 1)
    ours = {
        "alphas_cumprod": schedule.table,
        "betas": 1 - schedule.table / below,
        "posterior_variance": process.posterior_beta(*ends),
        "posterior_mean_coef1": process.posterior_coef_x0(*ends),
        "posterior_mean_coef2": process.posterior_coef_xt(*ends),
    }
    for name, table in ours.items():
        assert table.dtype == torch.float64
        torch.testing.assert_close(table, recorded[name].double(), rtol=1e-6, atol=1e-9, msg=name)
    noised = process.q_sample(recorded["x0"], recorded["noise"], recorded["t"], schedule)
    assert noised.dtype == torch.float32
    torch.testing.assert_close(noised, recorded["q_sample"], rtol=1e-6, atol=1e-6)


def test_linear_and_cosine_are_diffusers():
    from diffusers import DDPMScheduler

    for ours, name in [
        (Linear(), "linear"),
        (Cosine(), "squaredcos_cap_v2"),
        (SqrtLinear(start=0.00085, end=0.012), "scaled_linear"),
    ]:
        ends = {"beta_start": 0.00085, "beta_end": 0.012} if name == "scaled_linear" else {"beta_start": 1e-4, "beta_end": 2e-2}
        theirs = DDPMScheduler(beta_schedule=name, **ends).alphas_cumprod
        torch.testing.assert_close(ours.table.float(), theirs, rtol=3e-5, atol=1e-9, msg=name)


@pytest.mark.parametrize("make", SCHEDULES, ids=named)
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_signal_falls_from_nearly_all_to_what_was_asked(make, zero, shift):
    schedule = make(zero_terminal_snr=zero, snr_shift=shift)
    assert schedule.table.shape == (1000,) and schedule.table.dtype == torch.float64
    assert (schedule.table.diff() < 0).all() and 0.98 < schedule.table[0] < 1
    assert schedule.has_zero_terminal_snr is zero and (schedule.table[-1] == 0).item() is zero


@pytest.mark.parametrize("make", SCHEDULES, ids=named)
def test_snr_shift_divides_the_root_of_snr(make):
    torch.testing.assert_close(snr(make(snr_shift=3.0)) * 9, snr(make()), rtol=1e-9, atol=0)
    assert torch.equal(make(snr_shift=1.0).table, make().table)


@pytest.mark.parametrize("make", SCHEDULES, ids=named)
@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_zero_terminal_snr_is_an_affine_map_of_alpha_that_keeps_the_first(make, shift):
    before, after = make(snr_shift=shift).table, make(zero_terminal_snr=True, snr_shift=shift).table
    assert after[0] == before[0] and after[-1] == 0
    slope = after.sqrt().diff() / before.sqrt().diff()
    torch.testing.assert_close(slope, slope.mean().expand_as(slope), rtol=1e-7, atol=0)


def test_zero_terminal_snr_is_diffusers():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_schedule="linear", rescale_betas_zero_snr=True).alphas_cumprod
    torch.testing.assert_close(Linear(zero_terminal_snr=True).table.float(), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "coefficient"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_coefficients_are_cast_from_float64_to_the_samples_type_or_float32(dtype, coefficient):
    schedule, t = SqrtLinear(), torch.tensor([0, 999])
    alpha, sigma = schedule.alpha_sigma(t, torch.zeros(2, 4, 3, 2, 2, dtype=dtype))
    assert alpha.dtype == sigma.dtype == coefficient and alpha.shape == (2, 1, 1, 1, 1)
    assert torch.equal(alpha.flatten(), schedule.table[t].sqrt().to(coefficient))
    assert torch.equal(sigma.flatten(), (1 - schedule.table[t]).sqrt().to(coefficient))


def test_time_may_be_per_sample_or_per_frame_on_volumes_and_planes():
    schedule = SqrtLinear()
    for like in (torch.zeros(2, 4, 3, 5, 5), torch.zeros(2, 4, 3)):
        tail = [1] * (like.ndim - 3)
        assert schedule.alpha_sigma(torch.tensor([1, 2]), like)[0].shape == (2, 1, 1, *tail)
        t = torch.tensor([[1, 2, 3], [4, 5, 6]])
        alpha = schedule.alpha_sigma(t, like)[0]
        assert alpha.shape == (2, 1, 3, *tail)
        assert torch.equal(alpha.flatten(), schedule.table[t].sqrt().float().flatten())


def test_a_constant_time_per_frame_is_the_scalar_time_to_the_bit():
    schedule, x0, eps = Cosine(), torch.randn(2, 4, 3, 5, 5), torch.randn(2, 4, 3, 5, 5)
    t = torch.tensor([17, 801])
    assert torch.equal(process.q_sample(x0, eps, t, schedule), process.q_sample(x0, eps, t[:, None].expand(-1, 3), schedule))


def test_a_schedule_can_be_copied():
    assert torch.equal(copy.deepcopy(Cosine(snr_shift=2.0)).table, Cosine(snr_shift=2.0).table)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SqrtLinear(1),
        lambda: Linear(start=0.1, end=0.01),
        lambda: Linear(start=0.0),
        lambda: Linear(end=1.0),
        lambda: Cosine(offset=-1.0),
        lambda: Cosine(1),
        lambda: Cosine(snr_shift=0.0),
    ],
)
def test_an_impossible_schedule_is_refused(make):
    with pytest.raises(UserError, match="expected"):
        make()


# The process and the objectives --------------------------------------------------------------------------------------


def draw(t_shape=(3,)) -> tuple[torch.Tensor, ...]:
    x0, eps = torch.randn(2, 3, 4, 4, 2, 2, dtype=torch.float64)
    return x0, eps, torch.randint(999, t_shape)


@given(variance=st.floats(0.1, 10), t=st.integers(1, 999))
@settings(max_examples=30, deadline=None)
def test_the_posterior_is_bayes(variance, t):
    """q(x_{t-1} | x_t, x0) from the product of two Gaussians, with none of the paper's algebra."""
    schedule = Linear()
    before, now = schedule.table[t - 1], schedule.table[t]
    step = now / before  # x_t = sqrt(step) x_{t-1} + sqrt(1 - step) noise
    x0, x_t = torch.tensor([[variance]], dtype=torch.float64), torch.tensor([[0.3]], dtype=torch.float64)
    precision = 1 / (1 - before) + step / (1 - step)
    mean = (before.sqrt() * x0 / (1 - before) + step.sqrt() * x_t / (1 - step)) / precision
    ends = now.sqrt(), (1 - now).sqrt(), before.sqrt(), (1 - before).sqrt()
    ours = process.posterior_coef_x0(*ends) * x0 + process.posterior_coef_xt(*ends) * x_t
    torch.testing.assert_close(ours, mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(process.posterior_beta(*ends), 1 / precision, rtol=1e-9, atol=1e-15)


def test_the_posterior_below_the_first_time_is_x0():
    ends = (Linear().alpha(torch.tensor(0)), Linear().sigma(torch.tensor(0)), 1.0, 0.0)
    assert (process.posterior_coef_x0(*ends), process.posterior_coef_xt(*ends), process.posterior_beta(*ends)) == (1, 0, 0)


@pytest.mark.parametrize("make", SCHEDULES, ids=named)
@pytest.mark.parametrize("t_shape", [(3,), (3, 4)])
def test_conversions_are_inverse(make, t_shape):
    schedule, (x0, eps, t) = make(), draw(t_shape)
    x_t = process.q_sample(x0, eps, t, schedule)
    v = process.v_from_x0_eps(x0, eps, t, schedule)
    for got, expected in [
        (process.x0_from_eps(eps, x_t, t, schedule), x0),
        (process.x0_from_v(v, x_t, t, schedule), x0),
    ]:
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(x_t**2 + v**2, x0**2 + eps**2, msg="(x_t, v) is (x0, eps) turned")


@pytest.mark.parametrize("objective", OBJECTIVES, ids=named)
def test_the_target_gives_x0_back(objective):
    schedule, (x0, eps, t) = SqrtLinear(), draw((3, 4))
    x_t = process.q_sample(x0, eps, t, schedule)
    torch.testing.assert_close(objective.x0(objective.target(x0, eps, t, schedule), x_t, t, schedule), x0)


@pytest.mark.parametrize("objective", [X0Objective(), VObjective()], ids=named)
def test_pure_noise_still_gives_x0_back(objective):
    schedule, (x0, eps, _) = Linear(zero_terminal_snr=True), draw()
    t = torch.full((3,), 999)
    assert torch.equal(process.q_sample(x0, eps, t, schedule), eps)
    assert torch.equal(objective.x0(objective.target(x0, eps, t, schedule), eps, t, schedule), x0)


@pytest.mark.parametrize(
    "schedule", [*(make() for make in SCHEDULES), Linear(zero_terminal_snr=True), RectifiedFlow()], ids=named
)
@pytest.mark.parametrize("objective", [*OBJECTIVES, FlowObjective()], ids=named)
def test_an_objective_fits_a_schedule_where_its_target_gives_x0_back_at_every_time(objective, schedule):
    """Fits is what the mathematics says: no other pair is refused, and no pair that fits is wrong anywhere."""
    t = schedule.time_at(torch.linspace(0, 1, 7))
    x0, eps = torch.randn(2, 7, 3, dtype=torch.float64)
    x_t = process.q_sample(x0, eps, t, schedule)
    back = objective.x0(objective.target(x0, eps, t, schedule), x_t, t, schedule)
    if torch.allclose(back, x0, rtol=0, atol=1e-7):
        check_compatible(objective, schedule)
    else:
        with pytest.raises(UserError, match=f"{named(objective)} does not fit the schedule {named(schedule)}: .*; take"):
            check_compatible(objective, schedule)


# Continuous times and rectified flow ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", SCHEDULES, ids=named)
def test_a_table_holds_at_real_times_too(make):
    """Equal to the table at whole times, between its values elsewhere, and without noise at -1."""
    schedule, whole = make(zero_terminal_snr=True), torch.arange(1000)
    assert torch.equal(schedule.alpha(whole.float()), schedule.alpha(whole))
    assert torch.equal(schedule.sigma(whole.double()), schedule.sigma(whole))
    between = schedule.alpha_bar(whole[:-1] + 0.25)
    torch.testing.assert_close(between, 0.75 * schedule.table[:-1] + 0.25 * schedule.table[1:])
    for end in (torch.tensor(-1), torch.tensor(-1.0)):
        assert (schedule.alpha(end), schedule.sigma(end)) == (1, 0)


def test_rectified_flow_is_the_straight_line_from_data_to_noise():
    schedule, (x0, eps, _) = RectifiedFlow(), draw()
    t = torch.tensor([0.0, 250.0, 1000.0])
    expected = torch.stack([x0[0], 0.75 * x0[1] + 0.25 * eps[1], eps[2]])
    torch.testing.assert_close(process.q_sample(x0, eps, t, schedule), expected)
    assert torch.equal(FlowObjective().target(x0, eps, t, schedule), eps - x0)
    level = torch.tensor([[100, 0]])  # of given frames: a whole time
    assert schedule.sigma(level).tolist() == [[0.1, 0.0]] and schedule.has_zero_terminal_snr


def test_min_snr_of_the_flow_is_on_the_error_of_x0_too():
    """|x0 error| = sigma |velocity error|."""
    t = torch.tensor([0.0, 200.0, 700.0, 1000.0])
    sigma = t.double() / 1000
    snr_ = ((1 - sigma) / sigma) ** 2
    weight = MinSNRWeight(5.0)(t, RectifiedFlow(), FlowObjective())
    torch.testing.assert_close(weight, (snr_.clamp(max=5) * sigma**2).float())


# Losses and weights --------------------------------------------------------------------------------------------------


def test_losses_are_elementwise():
    prediction, target = torch.tensor([[0.0, 0.5, -3.0]]), torch.zeros(1, 3)
    assert L1Loss()(prediction, target).tolist() == [[0, 0.5, 3]]
    assert L2Loss()(prediction, target).tolist() == [[0, 0.25, 9]]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=named)
@pytest.mark.parametrize("schedule", [SqrtLinear(), Cosine(snr_shift=2.0)], ids=named)
def test_min_snr_is_the_papers_formula_for_each_objective(objective, schedule):
    t = torch.arange(1000)
    s = snr(schedule)
    capped = s.clamp(max=5)
    formula = {EpsObjective: capped / s, X0Objective: capped, VObjective: capped / (s + 1)}[type(objective)]
    weight = MinSNRWeight(5.0)(t, schedule, objective)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, formula.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=named)
def test_min_snr_weighs_the_same_error_of_x0_the_same_whatever_is_predicted(objective):
    """weight * |output error|^2 = min(SNR, gamma) |x0 error|^2."""
    schedule, (x0, eps, t) = Linear(), draw()
    x_t = process.q_sample(x0, eps, t, schedule)
    target = objective.target(x0, eps, t, schedule)
    output = target + 0.1 * torch.randn_like(target)
    x0_error = (objective.x0(output, x_t, t, schedule) - x0).flatten(1).square().sum(dim=1)
    error = (output - target).flatten(1).square().sum(dim=1)
    weight = MinSNRWeight(2.0)(t, schedule, objective)
    torch.testing.assert_close(weight * error, snr(schedule)[t].clamp(max=2) * x0_error, rtol=1e-5, atol=0)


@pytest.mark.parametrize("weight", [UniformWeight(), MinSNRWeight()], ids=named)
@pytest.mark.parametrize("objective", [X0Objective(), VObjective()], ids=named)
def test_weights_have_the_shape_of_t_and_are_finite_without_signal(weight, objective):
    for t in (torch.tensor([0, 999]), torch.tensor([[0, 10, 999], [999, 5, 6]])):
        got = weight(t, Cosine(zero_terminal_snr=True), objective)
        assert got.shape == t.shape and torch.isfinite(got).all() and (got >= 0).all()


def test_min_snr_needs_a_cap():
    with pytest.raises(UserError, match="gamma is 0.0, expected a number from 1e-06"):
        MinSNRWeight(0.0)
