"""Which clips are measured: against slow enumeration, by uniformity, and at the edges of length, stride, count and run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvdm.evaluation.protocols.clip_choice import Clip, choose_clips, frame_numbers, most_clips
from lvdm.evaluation.protocols.named import EvalProtocol, get_protocol
from lvdm.types import UserError

LENGTHS = [16, 15, 40, 0, 100, 17, 16, 3, 31, 64]
LONG_ENOUGH = [0, 2, 4, 5, 6, 8, 9]  # for 16 frames
lengths_of_sets = st.lists(st.integers(0, 60), min_size=1, max_size=12)


def protocol(base: str = "lvdm-fvd2048", **changes: object) -> EvalProtocol:
    return get_protocol(base, **changes)


def every_window(lengths: list[int], frames: int, stride: int) -> list[Clip]:
    tried = [Clip(video, start) for video, length in enumerate(lengths) for start in range(length)]
    return [clip for clip in tried if clip.start + (frames - 1) * stride < lengths[clip.video]]


@settings(max_examples=40, deadline=None)
@given(lengths_of_sets, st.integers(1, 6), st.integers(1, 4), st.integers(0, 9))
def test_windows_are_those_of_a_slow_enumeration(lengths: list[int], frames: int, stride: int, run: int) -> None:
    asked = protocol(frames=frames, stride=stride, real_clips="every window")
    possible = every_window(lengths, frames, stride)
    assert most_clips(lengths, asked, of="real") == len(possible)
    taken = choose_clips(lengths, asked, of="real", count=len(possible), run=run)
    assert len(set(taken)) == len(taken) and set(taken) == set(possible)
    in_order = protocol(frames=frames, stride=stride, real_clips="every window", order="sorted", runs=1, seed=0)
    assert choose_clips(lengths, in_order, of="real", count=len(possible)) == possible


@settings(max_examples=40, deadline=None)
@given(lengths_of_sets, st.integers(1, 6), st.integers(1, 4), st.integers(0, 9))
def test_one_clip_a_video_is_a_window_of_every_long_enough_video(lengths: list[int], frames: int, stride: int, run: int) -> None:
    asked = protocol(frames=frames, stride=stride)
    possible = every_window(lengths, frames, stride)
    count = most_clips(lengths, asked, of="real")
    taken = choose_clips(lengths, asked, of="real", count=count, run=run)
    assert sorted(clip.video for clip in taken) == sorted({clip.video for clip in possible})
    assert set(taken) <= set(possible)
    assert choose_clips(lengths, asked, of="real", count=count // 2, run=run) == taken[: count // 2]


def test_a_video_of_exactly_the_needed_length_takes_part_and_one_frame_less_does_not() -> None:
    assert choose_clips([15, 16], protocol(), of="real", count=1) == [Clip(1, 0)]
    assert choose_clips([30, 31], protocol(stride=2), of="real", count=1) == [Clip(1, 0)]
    assert most_clips([15], protocol(), of="real") == 0


def test_styleganv_asks_for_a_last_stride_more_and_may_start_in_it() -> None:
    asked = protocol("styleganv-fvd2048-128f-sub8")
    assert most_clips([121, 127, 128], asked, of="real") == 1
    starts = {choose_clips([128] * 400, asked, of="real", count=400)[i].start for i in range(400)}
    assert starts == set(range(8))  # its formula: 0 .. L - n s + s - 1
    last = max(choose_clips([128] * 400, asked, of="real", count=400), key=lambda clip: clip.start)
    assert frame_numbers(last, asked, "real")[-1] == 127
    assert choose_clips([128], asked, of="fake", count=1) == [Clip(0, 0)]
    assert list(frame_numbers(Clip(0, 0), asked, "fake")) == list(range(0, 128, 8))


def test_latte_skips_frames_of_real_videos_alone() -> None:
    asked = protocol("latte")
    assert most_clips([47, 48, 16], asked, of="real") == 1 and most_clips([47, 48, 16], asked, of="fake") == 3
    assert list(frame_numbers(Clip(1, 2), asked, "real")) == list(range(2, 50, 3))
    assert list(frame_numbers(Clip(1, 0), asked, "fake")) == list(range(16))


def test_sorted_videos_are_the_first_ones_and_shuffled_ones_differ_from_run_to_run() -> None:
    first = choose_clips(LENGTHS, protocol("styleganv-fvd2048-16f"), of="real", count=4)
    assert [clip.video for clip in first] == LONG_ENOUGH[:4]
    runs = [tuple(choose_clips(LENGTHS, protocol(), of="real", count=4, run=run)) for run in range(10)]
    assert len(set(runs)) == 10
    again = protocol(order="sorted")
    starts = [tuple(choose_clips(LENGTHS, again, of="real", count=4, run=run)) for run in range(10)]
    assert len(set(starts)) > 5 and {tuple(clip.video for clip in run) for run in starts} == {tuple(LONG_ENOUGH[:4])}
    other = choose_clips(LENGTHS, protocol(seed=1), of="real", count=4)
    assert tuple(other) not in runs


def test_the_draws_are_the_same_on_every_machine_for_good() -> None:
    taken = choose_clips(LENGTHS, protocol(), of="real", count=3, run=2)
    assert taken == [Clip(2, 15), Clip(4, 47), Clip(6, 0)]


def test_a_draw_belongs_to_its_video_whichever_others_are_long_enough() -> None:
    asked = protocol("styleganv-fvd2048-16f")
    whole = {clip.video: clip.start for clip in choose_clips(LENGTHS, asked, of="real", count=7)}
    without = [0 if video == 4 else length for video, length in enumerate(LENGTHS)]
    part = {clip.video: clip.start for clip in choose_clips(without, asked, of="real", count=6)}
    assert part == {video: start for video, start in whole.items() if video != 4}


@pytest.mark.parametrize("kind", ["one random a video", "every window"])
def test_starts_are_uniform(kind: str) -> None:
    asked = protocol(real_clips=kind, frames=9)
    taken = [clip for run in range(10) for clip in choose_clips([16] * 1000, asked, of="real", count=800, run=run)]
    counts = np.bincount([clip.start for clip in taken])
    assert len(counts) == 8
    assert ((counts - 1000) ** 2 / 1000).sum() < 24.3  # chi-squared, 7 degrees of freedom, p = .001


def test_windows_favour_long_videos_and_one_clip_a_video_does_not() -> None:
    lengths = [16] * 300 + [115] * 300  # 1 and 100 windows
    windows = choose_clips(lengths, protocol("tats"), of="real", count=1000)
    assert np.mean([clip.video < 300 for clip in windows]) == pytest.approx(1 / 101, abs=0.01)
    videos = choose_clips(lengths, protocol(), of="real", count=300)
    assert np.mean([clip.video < 300 for clip in videos]) == pytest.approx(0.5, abs=0.1)


def test_fvd_keeps_the_generated_clips_of_all_runs_and_is_takes_the_next() -> None:
    for clips in ("first frames", "one random a video"):
        asked = protocol(fake_clips=clips)
        kept = [choose_clips([40] * 20, asked, of="fake", count=20, run=run) for run in range(10)]
        assert all(run == kept[0] for run in kept) and [clip.video for clip in kept[0]] == list(range(20))
    asked = protocol("tgan2-is")
    assert most_clips([16] * 39, asked, of="fake") == 3
    runs = [choose_clips([16] * 39, asked, of="fake", count=3, run=run) for run in range(10)]
    assert [clip.video for run in runs for clip in run] == list(range(30))


def test_too_few_clips_are_told_with_how_many_there_are() -> None:
    with pytest.raises(UserError, match=r"2048 real clips were requested, but 10 videos hold 7 \(3 have fewer than 16 frames\)"):
        choose_clips(LENGTHS, protocol(), of="real", count=2048)
    with pytest.raises(UserError, match="4 generated clips in each of 10 runs were requested, but 39 videos hold 3 in each"):
        choose_clips([16] * 39, protocol("tgan2-is"), of="fake", count=4)
    with pytest.raises(UserError, match="0 videos hold 0"):
        choose_clips([], protocol(), of="real", count=1)
