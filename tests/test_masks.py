"""Which frames are given: every kind of mask by its definition, by frequency, and mixed in one batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvdm.diffusion.draws import draw_levels, draw_times
from lvdm.diffusion.masks import BothEnds, EveryKth, FirstFrames, Mixture, NoMask, RandomSubset, write_frames
from lvdm.types import ABSENT, Condition, UserError

MANY = 20_000


def rows(mask, batch, frames, seed=0) -> torch.Tensor:
    """(b, t) of a mask, after a look at its shape."""
    drawn = mask(batch, frames, torch.Generator().manual_seed(seed))
    assert drawn.shape == (batch, 1, frames, 1, 1) and drawn.dtype == torch.float32 and drawn.device.type == "cpu"
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    return drawn[:, 0, :, 0, 0]


every_mask = st.one_of(
    st.just(NoMask()),
    st.just(BothEnds()),
    st.lists(st.integers(0, 2), min_size=1, max_size=3).map(FirstFrames),
    st.integers(2, 9).map(EveryKth),
    st.floats(0, 1).map(RandomSubset),
)
mixtures = st.lists(every_mask, min_size=1, max_size=5).map(lambda masks: Mixture(masks, [1 / len(masks)] * len(masks)))


@given(mask=st.one_of(every_mask, mixtures), batch=st.integers(1, 7), frames=st.integers(3, 12), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_every_mask_leaves_a_frame_to_make_and_follows_its_generator(mask, batch, frames, seed):
    drawn = rows(mask, batch, frames, seed)
    assert (drawn.sum(dim=1) < frames).all()
    assert torch.equal(drawn, rows(mask, batch, frames, seed))


@given(k=st.integers(2, 12), frames=st.integers(2, 20))
@settings(max_examples=50, deadline=None)
def test_every_kth_is_multiples_of_k(k, frames):
    assert rows(EveryKth(k), 2, frames).nonzero()[:, 1].tolist() == 2 * list(range(0, frames, k))


def test_the_fixed_kinds_on_five_frames():
    assert rows(NoMask(), 1, 5).tolist() == [[0, 0, 0, 0, 0]]
    assert rows(BothEnds(), 1, 5).tolist() == [[1, 0, 0, 0, 1]]
    assert rows(FirstFrames([2]), 1, 5).tolist() == [[1, 1, 0, 0, 0]]
    assert rows(EveryKth(2), 1, 5).tolist() == [[1, 0, 1, 0, 1]]


def test_first_frames_draws_each_count_equally_often():
    drawn = rows(FirstFrames([1, 3, 4]), MANY, 6)
    assert (drawn.diff(dim=1) <= 0).all(), "given frames come first"
    share = torch.bincount(drawn.sum(dim=1).long(), minlength=7) / MANY
    assert share.tolist() == pytest.approx([0, 1 / 3, 0, 1 / 3, 1 / 3, 0, 0], abs=0.015)


@pytest.mark.parametrize("p", [0.0, 0.25, 0.7])
def test_random_subset_gives_each_frame_with_its_probability(p):
    """Save for the one frame taken back where all T would be given, which costs each p^T / T."""
    frames = 4
    drawn = rows(RandomSubset(p), MANY, frames)
    assert drawn.mean(dim=0).tolist() == pytest.approx([p - p**frames / frames] * frames, abs=0.015)
    if 0 < p < 0.5:
        assert (torch.corrcoef(drawn.T) - torch.eye(frames)).abs().max() < 0.03, "frames are drawn by themselves"


def test_random_subset_of_probability_one_spares_one_frame_evenly():
    drawn = rows(RandomSubset(1.0), MANY, 4)
    assert (drawn.sum(dim=1) == 3).all()
    assert (1 - drawn).mean(dim=0).tolist() == pytest.approx([0.25] * 4, abs=0.015)


def test_a_mixture_draws_per_sample_with_its_probabilities():
    drawn = rows(Mixture([NoMask(), FirstFrames([1]), BothEnds()], [0.2, 0.5, 0.3]), MANY, 5)
    share = {tuple(row): (drawn == torch.tensor(row)).all(dim=1).float().mean().item() for row in drawn.unique(dim=0).tolist()}
    assert share == pytest.approx({(0, 0, 0, 0, 0): 0.2, (1, 0, 0, 0, 0): 0.5, (1, 0, 0, 0, 1): 0.3}, abs=0.015)
    small = rows(Mixture([NoMask(), BothEnds()], [0.5, 0.5]), 16, 5)
    assert len(small.unique(dim=0)) == 2, "kinds mix within a batch"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: FirstFrames([]), r"counts is \[\], expected a list of 1 to"),
        (lambda: FirstFrames([-1]), "each an integer from 0 to"),
        (lambda: FirstFrames([4])(2, 4, None), "a clip has 4"),
        (lambda: BothEnds()(2, 2, None), "at least 3"),
        (lambda: EveryKth(1), "k is 1, expected an integer from 2 to"),
        (lambda: RandomSubset(1.5), "from 0 to 1"),
        (lambda: Mixture([NoMask()], [0.5, 0.5]), "1 masks came with 2"),
        (lambda: Mixture([NoMask(), BothEnds()], [0.5, 0.4]), "sum to 1"),
        (lambda: Mixture([NoMask(), BothEnds()], [1.5, -0.5]), "each a number from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(UserError, match=says):
        make()


# What follows from a mask --------------------------------------------------------------------------------------------


def test_frame_times_are_the_level_where_given_and_told_and_t_elsewhere():
    mask = torch.tensor([[1.0, 0, 0], [0, 0, 0], [1, 0, 1]])
    level = torch.tensor([100, 7, ABSENT])
    expected = [[100, 900, 900], [500, 500, 500], [3, 3, 3]]
    for m in (mask.view(3, 1, 3, 1, 1), mask.view(3, 1, 3, 1, 1).expand(-1, -1, -1, 4, 4), mask.view(3, 1, 3)):
        times = Condition(mask=m, frame_noise=level).frame_times(torch.tensor([900, 500, 3]))
        assert times.tolist() == expected and times.dtype == torch.long


def test_frame_times_leave_what_is_per_frame_already():
    cond = Condition(mask=torch.tensor([1.0, 0, 0]).view(1, 1, 3, 1, 1), frame_noise=torch.tensor([5]))
    once = cond.frame_times(torch.tensor([[10, 20, 30]]))
    assert once.tolist() == [[5, 20, 30]] and torch.equal(cond.frame_times(once), once)


@pytest.mark.parametrize("cond", [Condition(), Condition(mask=torch.ones(1, 1, 3, 1, 1)), Condition(frame_noise=torch.ones(1))])
def test_frame_times_with_nothing_given_or_told_are_t(cond):
    t = torch.tensor([4])
    assert cond.frame_times(t) is t


def test_write_frames_puts_the_given_in_their_places_in_a_copy():
    x, frames = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    kept = x.clone()
    mask = Mixture([BothEnds(), NoMask()], [0.5, 0.5])(2, 4, torch.Generator().manual_seed(3))
    out = write_frames(x, frames, mask)
    assert torch.equal(out, torch.where(mask == 1, frames, x)) and torch.equal(x, kept)


# Draws of a training batch -------------------------------------------------------------------------------------------


@given(batch=st.integers(1, 64), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_stratified_times_take_one_from_each_equal_part(batch, seed):
    t = draw_times(batch, 1000, torch.Generator().manual_seed(seed))
    assert t.dtype == torch.long and t.min() >= 0 and t.max() < 1000
    assert all(k * 1000 / batch - 1 < time < (k + 1) * 1000 / batch for k, time in enumerate(sorted(t.tolist())))


@pytest.mark.parametrize("stratified", [True, False])
def test_a_samples_time_is_uniform_whatever_its_place_in_the_batch(stratified):
    generator = torch.Generator().manual_seed(0)
    t = torch.stack([draw_times(8, 10, generator, stratified=stratified) for _ in range(4000)])
    for place in (0, 7):
        share = torch.bincount(t[:, place], minlength=10) / len(t)
        assert share.tolist() == pytest.approx([0.1] * 10, abs=0.02)


def test_stratified_times_make_a_batch_mean_with_less_noise():
    generator = torch.Generator().manual_seed(0)
    spread = {
        stratified: torch.stack(
            [draw_times(16, 1000, generator, stratified=stratified).double().mean() for _ in range(500)]
        ).std()
        for stratified in (True, False)
    }
    assert spread[False] == pytest.approx(1000 / 12**0.5 / 4, rel=0.15), "1 / sqrt(16) of a uniform's deviation"
    assert spread[True] == pytest.approx(1000 / 12**0.5 / 4 / 16, rel=0.15), "each part is 16 times narrower"


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
