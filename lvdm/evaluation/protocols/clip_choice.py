"""Which clips of a set of videos are measured: a pure function of the videos' lengths, the protocol and the run.

Each video is called by its number in its source. Sorted ones are taken in the order that `choose_clips` is given, generated
ones as they come. Processes, batches and workers change nothing, and fewer clips are the beginning of more. The draws are those
of numpy's RandomState, whose streams are frozen for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np

from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.seeding import protocol_generator
from lvdm.types import UserError, clip_span

Side = Literal["real", "fake"]
_ORDER, _STARTS = 0, 1  # two streams of every (seed, run)


@dataclass(frozen=True)
class Clip:
    """One clip of the set: the video's number and its first frame."""

    video: int
    start: int


def stride_of(protocol: EvalProtocol, of: Side) -> int:
    """Return the frames from one frame of a clip to the next."""
    return protocol.stride if of == "real" else protocol.fake_stride


def frame_numbers(clip: Clip, protocol: EvalProtocol, of: Side) -> range:
    """Return the frames of its video that a clip takes."""
    stride = stride_of(protocol, of)
    return range(clip.start, clip.start + protocol.frames * stride, stride)


def choose_clips(
    lengths: Sequence[int], protocol: EvalProtocol, *, of: Side, count: int, run: int = 0, by_name: Sequence[int] | None = None
) -> list[Clip]:
    """Return `count` clips of the real or generated videos that have these numbers of frames.

    One clip a video or every window, each at most once in a run; a video that is too short has none. `most_clips` says how
    many a run can have. `by_name` are the numbers of real videos in the order of their names, if it is not theirs.
    """
    assert 0 <= run < protocol.runs, f"run {run} of {protocol.runs}"
    most = most_clips(lengths, protocol, of=of)
    if count > most:
        raise UserError(_too_few(lengths, protocol, of, count, most))
    skipped = count * run if _takes_new_videos(protocol, of) else 0
    order = _order(lengths, protocol, of, run, by_name)[skipped : skipped + count]
    if _clips(protocol, of) == "every window":
        return _windows(lengths, protocol, of, order)
    long_enough = np.flatnonzero(_starts(lengths, protocol, of))
    starts = _first_frames(lengths, protocol, of, run)
    return [Clip(int(video), int(starts[video])) for video in long_enough[order]]


def most_clips(lengths: Sequence[int], protocol: EvalProtocol, *, of: Side) -> int:
    """Return how many clips every run can have."""
    return _count_clips(lengths, protocol, of) // (protocol.runs if _takes_new_videos(protocol, of) else 1)


def _takes_new_videos(protocol: EvalProtocol, of: Side) -> bool:
    """Return whether each run takes the next generated videos, as runs without real clips do."""
    return of == "fake" and not protocol.uses_real


def _clips(protocol: EvalProtocol, of: Side) -> str:
    return protocol.real_clips if of == "real" else protocol.fake_clips


def _needed(protocol: EvalProtocol, of: Side) -> int:
    stride = stride_of(protocol, of)
    if protocol.needed_frames == "span" or (_leaves_last_out(protocol) and of == "fake"):
        return clip_span(protocol.frames, stride)
    return protocol.frames * stride + _leaves_last_out(protocol)


def _leaves_last_out(protocol: EvalProtocol) -> bool:
    """Return whether the last possible start of a real clip is never drawn."""
    return protocol.needed_frames == "frames * stride + 1"


def _starts(lengths: Sequence[int], protocol: EvalProtocol, of: Side) -> np.ndarray:
    """Return (videos,), how many first frames a clip of each video can have; 0 if the video is too short."""
    given, needed = np.asarray(lengths, dtype=np.int64), _needed(protocol, of)
    last = given - (needed if _leaves_last_out(protocol) else clip_span(protocol.frames, stride_of(protocol, of)))
    return np.where(given >= needed, last + 1, 0)


def _count_clips(lengths: Sequence[int], protocol: EvalProtocol, of: Side) -> int:
    starts = _starts(lengths, protocol, of)
    return int(starts.sum() if _clips(protocol, of) == "every window" else np.count_nonzero(starts))


def _order(lengths: Sequence[int], protocol: EvalProtocol, of: Side, run: int, by_name: Sequence[int] | None) -> np.ndarray:
    """Return (total,), the order in which videos or windows are taken."""
    total = _count_clips(lengths, protocol, of)
    if of == "real" and protocol.order == "shuffled":
        return _stream(protocol, run, _ORDER).permutation(total)
    if of == "fake" or by_name is None:
        return np.arange(total)
    starts = _starts(lengths, protocol, of)
    video_of = np.repeat(np.arange(len(starts)), starts if _clips(protocol, of) == "every window" else starts > 0)
    return np.argsort(np.argsort(by_name)[video_of], kind="stable")  # the second argsort gives each video its rank


def _first_frames(lengths: Sequence[int], protocol: EvalProtocol, of: Side, run: int) -> np.ndarray:
    """Return (videos,) first frames of the one clip of each video; a draw belongs to its video, whichever others are usable."""
    if _clips(protocol, of) == "first frames":
        return np.zeros(len(lengths), dtype=np.int64)
    is_kept = of == "fake" and protocol.uses_real  # over all runs
    uniform = _stream(protocol, 0 if is_kept else run, _STARTS, of).random_sample(len(lengths))
    return (uniform * _starts(lengths, protocol, of)).astype(np.int64)


def _windows(lengths: Sequence[int], protocol: EvalProtocol, of: Side, order: np.ndarray) -> list[Clip]:
    ends = np.array(list(accumulate(_starts(lengths, protocol, of))), dtype=np.int64)
    videos = np.searchsorted(ends, order, side="right")
    before = np.concatenate([[0], ends])[videos]
    return [Clip(int(video), int(start)) for video, start in zip(videos, order - before, strict=True)]


def _stream(protocol: EvalProtocol, run: int, purpose: int, of: Side = "real") -> np.random.RandomState:
    return protocol_generator(protocol.seed, run, purpose, int(of == "fake"))


def _too_few(lengths: Sequence[int], protocol: EvalProtocol, of: Side, count: int, most: int) -> str:
    short = int(np.count_nonzero(np.asarray(lengths) < _needed(protocol, of)))
    a_run = f" in each of {protocol.runs} runs" if _takes_new_videos(protocol, of) and protocol.runs > 1 else ""
    wanted = f"{count} {'real' if of == 'real' else 'generated'} clips{a_run}"
    return (
        f"{wanted} were requested, but {len(lengths)} videos hold {most}{a_run} ({short} have fewer than "
        f"{_needed(protocol, of)} frames); give more videos, or allow fewer, which renames the metric"
    )
