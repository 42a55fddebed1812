"""Which times a sampler visits: the published spacing, trailing, and all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvdm.diffusion.schedules import Linear, RectifiedFlow, SqrtLinear
from lvdm.sampling.timesteps import full_grid, make_grid, published_grid, trailing_grid
from lvdm.types import UserError


def test_published_grid_is_range_plus_one_and_ends_at_the_tables_first():
    schedule = SqrtLinear()
    grid = published_grid(schedule, 50)
    assert grid.times == (*range(981, 0, -20), 0)
    assert grid.alpha[-1] == float(schedule.table[0].sqrt())
    assert len(published_grid(schedule, 30)) == 31, "1000 // 30 = 33, and 31 multiples of 33 lie below 1000"
    assert published_grid(schedule, 500).times[0] == 999


@pytest.mark.parametrize(("steps", "other"), [(3, 2), (37, 38), (501, 500), (1000, 500)])
def test_published_grid_outside_the_table_is_refused_with_the_nearest_that_fits(steps, other):
    with pytest.raises(UserError, match=f"reach time 1000.*take {other} steps, or spacing trailing"):
        published_grid(SqrtLinear(), steps)
    assert published_grid(SqrtLinear(), other).times[0] < 1000


def test_every_published_grid_is_whole_or_refused():
    """Independent of the rule that decides: all 1000 step counts are tried."""
    schedule = SqrtLinear()
    for steps in range(1, 1001):
        times = [t + 1 for t in range(0, 1000, 1000 // steps)]
        if max(times) < 1000:
            assert published_grid(schedule, steps).times == (*reversed(times), 0)
        else:
            with pytest.raises(UserError):
                published_grid(schedule, steps)


@given(num_steps=st.integers(2, 300), data=st.data())
@settings(max_examples=50, deadline=None)
def test_trailing_grid_starts_at_the_last_time_and_strides_evenly(num_steps, data):
    steps = data.draw(st.integers(1, num_steps))
    grid = trailing_grid(Linear(num_steps), steps)
    assert len(grid) == steps and grid.times[0] == num_steps - 1 and grid.times[-2] >= 0
    assert (grid.times[-1], grid.alpha[-1], grid.sigma[-1]) == (-1, 1, 0)
    strides = {a - b for a, b in zip(grid.times, grid.times[1:], strict=False)}
    assert strides <= {num_steps // steps, -(-num_steps // steps)}


def test_full_grid_is_every_time():
    assert full_grid(Linear(10)).times == tuple(range(9, -2, -1))


def test_a_continuous_schedule_is_walked_from_pure_noise_to_none_and_a_shift_dwells_on_noise():
    """SD3 eq. 23 with sqrt(m / n) = 3: half of the way is at 3 / 4."""
    for shift, middle in [(1.0, 500.0), (3.0, 750.0)]:
        grid = trailing_grid(RectifiedFlow(sampling_shift=shift), 2)
        assert grid.times == (1000.0, middle, 0.0)
        assert grid.sigma == (1.0, middle / 1000, 0.0) and grid.alpha == (0.0, 1 - middle / 1000, 1.0)
        assert [(step.t, step.t_next, step.is_last) for step in grid] == [(1000, middle, False), (middle, 0, True)]


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    for spacing in ("published", "trailing"):
        with pytest.raises(UserError, match="take 1 to 1000"):
            make_grid(SqrtLinear(), steps, spacing)


def test_an_unknown_spacing_is_refused():
    with pytest.raises(UserError, match="published, trailing"):
        make_grid(SqrtLinear(), 10, "leading")
