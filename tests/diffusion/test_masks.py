"""Which frames are given: every kind of mask by its definition, by frequency, and mixed in one batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvdm.diffusion.masks import BothEnds, EveryKth, FirstFrames, Mixture, NoMask, write_frames
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
