"""When the samples of a training batch are: distributions, each against its closed form, and levels of given frames."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvdm.diffusion.schedules import Linear, RectifiedFlow
from lvdm.diffusion.training_times import LogitNormalTimes, ShiftedTimes, StratifiedTimes, UniformTimes, draw_levels
from lvdm.types import UserError

MANY = 20_000
DISTRIBUTIONS = [UniformTimes(), StratifiedTimes(), LogitNormalTimes(0.5, 0.8), ShiftedTimes(3.0, LogitNormalTimes())]


@pytest.mark.parametrize("times", DISTRIBUTIONS, ids=lambda times: type(times).__name__)
def test_a_batch_follows_its_generator_and_becomes_times_of_any_schedule(times):
    u = times(MANY, torch.Generator().manual_seed(3))
    assert u.shape == (MANY,) and u.dtype == torch.float64 and u.min() >= 0 and u.max() <= 1
    assert torch.equal(u, times(MANY, torch.Generator().manual_seed(3)))
    table, flow = Linear().time_at(u), RectifiedFlow(sampling_shift=5.0).time_at(u)
    assert table.dtype == torch.long and table.min() >= 0 and table.max() <= 999
    torch.testing.assert_close(flow, (1000 * u).float(), rtol=0, atol=0, msg="the sampling shift is not training's")


def test_the_default_draws_are_those_of_earlier_versions():
    """Recorded from version 0.1: draw_times(5, 1000) with seed 7."""
    u = StratifiedTimes()(5, torch.Generator().manual_seed(7))
    assert Linear().time_at(u).tolist() == [655, 854, 372, 531, 184]


def test_logit_normal_is_normal_after_the_logit():
    """The quantiles of a normal with mean .5 and deviation .8 (Esser et al. 2024 eq. 19)."""
    logit = torch.logit(LogitNormalTimes(0.5, 0.8, StratifiedTimes())(MANY, torch.Generator().manual_seed(0)))
    assert float(logit.mean()) == pytest.approx(0.5, abs=0.01) and float(logit.std()) == pytest.approx(0.8, abs=0.01)
    assert float((logit < 0.5 + 0.8).double().mean()) == pytest.approx(0.8413, abs=0.005)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_a_shift_multiplies_noise_over_signal(shift):
    plain, moved = (
        times(100, torch.Generator().manual_seed(0)) for times in (UniformTimes(), ShiftedTimes(shift, UniformTimes()))
    )
    torch.testing.assert_close(moved / (1 - moved), shift * plain / (1 - plain))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ShiftedTimes(0.0), "shift is 0.0, expected a number from 0.001"),
        (lambda: LogitNormalTimes(std=-1.0), "std is -1.0"),
        (lambda: LogitNormalTimes(mean=float("nan")), "mean is nan"),
        (lambda: RectifiedFlow(sampling_shift=-1.0), "sampling_shift is -1.0"),
    ],
)
def test_impossible_distributions_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()


# Draws of a training batch -------------------------------------------------------------------------------------------


@given(batch=st.integers(1, 64), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_stratified_times_take_one_from_each_equal_part(batch, seed):
    t = Linear().time_at(StratifiedTimes()(batch, torch.Generator().manual_seed(seed)))
    assert t.dtype == torch.long and t.min() >= 0 and t.max() < 1000
    assert all(k * 1000 / batch - 1 < time < (k + 1) * 1000 / batch for k, time in enumerate(sorted(t.tolist())))


@pytest.mark.parametrize("times", [UniformTimes(), StratifiedTimes()])
def test_a_samples_time_is_uniform_whatever_its_place_in_the_batch(times):
    generator = torch.Generator().manual_seed(0)
    t = torch.stack([Linear(10).time_at(times(8, generator)) for _ in range(4000)])
    for place in (0, 7):
        share = torch.bincount(t[:, place], minlength=10) / len(t)
        assert share.tolist() == pytest.approx([0.1] * 10, abs=0.02)


@pytest.mark.parametrize("times", [UniformTimes(), LogitNormalTimes(), ShiftedTimes(1.0)])
def test_the_times_of_a_batch_are_independent_unless_stratified(times):
    """Two samples fall on the same side of the median in half of all batches; stratified ones never do."""
    generator = torch.Generator().manual_seed(0)
    u = torch.stack([times(2, generator) for _ in range(2000)])
    assert float(((u[:, 0] < 0.5) == (u[:, 1] < 0.5)).double().mean()) == pytest.approx(0.5, abs=0.04)


def test_stratified_times_make_a_batch_mean_with_less_noise():
    generator = torch.Generator().manual_seed(0)
    even, stratified = (torch.stack([times(16, generator).mean() for _ in range(500)]).std() for times in DISTRIBUTIONS[:2])
    assert even == pytest.approx(1 / 12**0.5 / 4, rel=0.15), "1 / sqrt(16) of a uniform's deviation"
    assert stratified == pytest.approx(1 / 12**0.5 / 4 / 16, rel=0.15), "each part is 16 times narrower"


@pytest.mark.parametrize("clean_fraction", [0.0, 0.4, 1.0])
def test_levels_are_uniform_below_the_highest_but_for_the_clean(clean_fraction):
    level = draw_levels(MANY, 5, clean_fraction, torch.Generator().manual_seed(0))
    share = (torch.bincount(level, minlength=5) / MANY).tolist()
    rest = (1 - clean_fraction) / 5
    assert level.dtype == torch.long and share == pytest.approx([clean_fraction + rest, *[rest] * 4], abs=0.015)


@pytest.mark.parametrize(("max_level", "clean_fraction"), [(0, 0.0), (250, 1.5)])
def test_impossible_levels_are_refused(max_level, clean_fraction):
    with pytest.raises(UserError):
        draw_levels(2, max_level, clean_fraction)
