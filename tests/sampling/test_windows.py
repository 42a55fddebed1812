"""The plan of a long video: every latent made once, from known ones, at the published counts."""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvdm.sampling.windows import Plan, plan
from lvdm.types import UserError


@st.composite
def plans(draw: st.DrawFn) -> tuple[Plan, int]:
    temporal_factor = draw(st.sampled_from([1, 2, 4]))
    window = draw(st.integers(2, 10))
    key_stride = draw(st.integers(1, 5))
    frames = draw(st.integers(1, 600))
    latents = ceil(frames / temporal_factor)
    made = plan(
        frames,
        latents=latents,
        window=window,
        overlap=draw(st.integers(1, window - 1)),
        key_stride=key_stride,
        gap_window=None if key_stride == 1 else draw(st.integers(1, 4)) * key_stride + 1,
        start_latents=draw(st.integers(0, latents - 1)),
    )
    return made, temporal_factor


@given(plans())
@settings(max_examples=400, deadline=None)
def test_every_latent_is_made_once_from_known_ones(drawn: tuple[Plan, int]) -> None:
    made, temporal_factor = drawn
    known = set(range(made.start_latents))
    for stage, _, window in made.in_order():
        assert len(window.positions) == (made.window if stage == "key" else made.gap_window)
        assert not set(window.given) & set(window.new)
        assert min(window.positions) >= 0
        assert {window.positions[slot] for slot in window.given} <= known, "a given latent is not known yet"
        fresh = {window.positions[slot] for slot in window.new}
        assert not fresh & known, "a latent is made twice"
        known |= fresh
    assert set(range(made.latents)) <= known
    behind = {position for position in known if position >= made.latents}
    assert all((position - made.first_key) % made.key_stride == 0 for position in behind)
    assert made.latents * temporal_factor >= made.frames > (made.latents - 1) * temporal_factor


@given(plans())
@settings(max_examples=200, deadline=None)
def test_networks_see_what_they_were_trained_on(drawn: tuple[Plan, int]) -> None:
    made, _ = drawn
    first, *later = made.keys
    assert len(first.given) == min(made.known_keys, made.overlap)
    assert all(len(window.given) == made.overlap for window in later)
    for window in made.keys:
        steps = {after - before for before, after in zip(window.positions, window.positions[1:], strict=False)}
        assert steps == {made.key_stride}
    for window in made.gaps:
        assert window.given == tuple(range(0, made.gap_window, made.key_stride))
        assert window.positions == tuple(range(window.positions[0], window.positions[0] + made.gap_window))


@given(plans())
@settings(max_examples=200, deadline=None)
def test_order_and_lists_are_the_same_windows(drawn: tuple[Plan, int]) -> None:
    made, _ = drawn
    ordered = list(made.in_order())
    assert [window for stage, _, window in ordered if stage == "key"] == made.keys
    assert [window for stage, _, window in ordered if stage == "gap"] == made.gaps
    starts = [window.positions[0] for window in made.gaps]
    assert starts == sorted(starts), "memory is freed up to the next gap window, so they must move right"
    assert all(window.new for window in made.keys + made.gaps), "a window that keeps nothing is wasted work"


@pytest.mark.parametrize("frames", [16, 17, 52, 1000, 1021, 4000])
def test_published_counts(frames: int) -> None:
    made = plan(frames, latents=-(-frames // 4), window=4, overlap=1, key_stride=4, gap_window=5)
    latents = ceil(frames / 4)
    keys = max(ceil((latents + 3) / 4), 2)
    assert made.num_keys == keys
    assert len(made.keys) == 1 + max(0, ceil((keys - 4) / 3))
    assert len(made.gaps) == ceil((latents - 1) / 4), "one window for each pair of neighbouring keys"


def test_a_short_video_keeps_more_keys_of_the_first_window() -> None:
    made = plan(10, latents=5, window=9, overlap=4, key_stride=4, gap_window=9)
    (window,) = made.keys
    assert window.given == () and window.new == (0, 1, 2), "one interval is needed, but a gap window spans two"
    (gap,) = made.gaps
    assert gap.new == (1, 2, 3)


def test_the_last_gap_window_moves_back() -> None:
    made = plan(28, latents=14, window=9, overlap=4, key_stride=4, gap_window=9)  # 14 latents, 4 intervals
    odd = plan(24, latents=12, window=9, overlap=4, key_stride=4, gap_window=9)  # 12 latents, 3 intervals
    assert [gap.positions[0] for gap in made.gaps] == [0, 8]
    assert [gap.positions[0] for gap in odd.gaps] == [0, 4]
    assert odd.gaps[1].new == (5, 6, 7), "latents 9, 10, 11; 5 to 7 were made by the first"


def test_a_start_ends_on_a_key() -> None:
    made = plan(100, latents=100, window=5, overlap=2, key_stride=4, gap_window=5, start_latents=7)
    assert made.first_key == 2
    assert made.keys[0].positions[:2] == (2, 6) and made.keys[0].given == (0, 1)
    assert made.gaps[0].positions[0] == 6


def test_plain_autoregressive_has_no_gaps() -> None:
    made = plan(40, latents=10, window=4, overlap=2)
    assert made.gaps == []
    assert [window.positions[0] for window in made.keys] == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frames": 0}, "at least one frame"),
        ({"overlap": 4}, "cannot share 4"),
        ({"overlap": 0}, "cannot share 0"),
        ({"key_stride": 0}, "key_stride is 0"),
        ({"gap_window": None}, "fill the gaps"),
        ({"gap_window": 7}, "multiple of 4 plus one"),
        ({"gap_window": 1}, "multiple of 4 plus one"),
        ({"key_stride": 1}, "no gap to fill"),
        ({"start_latents": 25}, "already has 25 of the 25 latents"),
    ],
)
def test_what_cannot_be_planned_is_refused(change: dict[str, int | None], words: str) -> None:
    asked = {"frames": 100, "latents": 25, "window": 4, "overlap": 1, "key_stride": 4, "gap_window": 5, **change}
    with pytest.raises(UserError, match=words):
        plan(**asked)
