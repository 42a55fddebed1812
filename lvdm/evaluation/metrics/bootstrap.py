"""How far a metric would move with other clips of the same kind: a bootstrap interval (Efron and Tibshirani 1993, chapter 13).

Clips are drawn again with replacement, and the metric is taken of each such set. Distances of sets are larger there, since
a clip drawn twice adds nothing: the plain percentiles of FVD lie wholly above FVD itself. So the mean of that shift is
taken off, and the interval is one for the metric at this number of clips, not at infinity. For FVD it is on the wide side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lvdm.seeding import numpy_generator
from lvdm.types import UserError


@dataclass(frozen=True)
class Interval:
    """An interval of a statistic, from its values on resampled clips."""

    low: float
    high: float
    value: float  # of the clips themselves
    shift: float  # how far above it the mean of the resamples lay; already taken off low and high
    level: float
    resamples: int


def interval(
    statistic: Callable[..., float], *samples: np.ndarray, resamples: int = 200, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return the interval of `statistic(*samples)`, arrays whose first axis is the clips; each is resampled on its own.

    Sets that belong together row by row, as originals and reconstructions, go in as one array.
    """
    if resamples < 2 or not 0 < level < 1:
        raise UserError(f"an interval needs 2 resamples or more and a level within 0 and 1; got {resamples} and {level}")
    if not samples or min(len(sample) for sample in samples) < 2:
        raise UserError(f"an interval needs 2 clips or more in each set, got {[len(sample) for sample in samples]}; give more")
    rng = numpy_generator(seed)
    value = float(statistic(*samples))
    drawn = np.array([float(statistic(*(_again(sample, rng) for sample in samples))) for _ in range(resamples)])
    shift = float(drawn.mean() - value)
    low, high = np.percentile(drawn - shift, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(low), float(high), value=value, shift=shift, level=level, resamples=resamples)


def _again(sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return sample[rng.integers(len(sample), size=len(sample))]
