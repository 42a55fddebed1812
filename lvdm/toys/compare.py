"""The same long toy videos sampled in several ways, scored, in one table with mean and spread.

All variants share their seeds, so they are compared video by video.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lvdm.sampling.long_pipeline import LongOptions, prepare_long_video
from lvdm.sampling.pipeline import VideoModel
from lvdm.toys.curves import ToyCurves
from lvdm.toys.scores import ToyScores, score_videos
from lvdm.types import UserError

COLUMNS = ("ok", "ok_last300", "motion", "drift", "score")


@dataclass(frozen=True)
class Variant:
    """One way of sampling a long video; without `infill` it is plain autoregressive."""

    predict: VideoModel
    infill: VideoModel | None
    options: LongOptions


@dataclass(frozen=True)
class VariantScores:
    """The scores of one variant's videos, and the time that sampling and scoring took."""

    scores: ToyScores
    seconds_per_video: float


def compare(
    variants: Mapping[str, Variant], *, kind: str = "discs", num: int = 8, seed: int = 0, batch_size: int = 4
) -> dict[str, VariantScores]:
    """Sample `num` videos of every variant, `batch_size` at once, and score them."""
    if num < 1 or batch_size < 1:
        raise UserError(f"num is {num} and batch_size {batch_size}; both must be at least 1")
    results = {}
    for name, variant in variants.items():
        long_video = prepare_long_video(variant.predict, variant.infill, variant.options)
        start = time.perf_counter()
        curves: dict[str, ToyCurves] = {}
        for first in range(0, num, batch_size):
            batch = range(first, min(first + batch_size, num))
            videos = np.concatenate(list(long_video.frames(seed, batch)), axis=1)  # (v, t, h, w, 3)
            scored = score_videos(list(videos), kind)
            curves |= {str(video): each for video, each in zip(batch, scored.curves.values(), strict=True)}
        results[name] = VariantScores(ToyScores(kind, 300, curves), (time.perf_counter() - start) / num)
    return results


def markdown(results: Mapping[str, VariantScores]) -> str:
    """Return a table with a row for each variant: mean +- standard deviation of one video."""
    rows = [f"| variant | {' | '.join(COLUMNS)} | seconds a video |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, result in results.items():
        mean, spread = result.scores.mean, result.scores.spread
        cells = [f"{mean[column]:.3f} ± {spread[column]:.3f}" for column in COLUMNS]
        rows.append(f"| {name} | {' | '.join(cells)} | {result.seconds_per_video:.1f} |")
    return "\n".join(rows)
