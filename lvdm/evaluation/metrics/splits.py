"""A score of generated clips over splits of them: its mean and deviation, and the score of all clips together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lvdm.types import UserError


@dataclass(frozen=True)
class SplitScore:
    """A score over splits."""

    mean: float  # over the splits
    std: float  # over the splits; 0 if there is one
    whole: float  # of all clips as one split
    clips_per_split: int  # the smallest split's


def in_splits(score: Callable[[np.ndarray], float], rows: np.ndarray, *, splits: int, shuffle_seed: int | None) -> SplitScore:
    """Return the score of parts of the rows (n, d), a row a clip.

    Args:
        splits: parts that are scored apart; TGANv2 takes 1, StyleGAN-V 10.
        shuffle_seed: of the order before splitting, drawn as StyleGAN-V does (42 there); None keeps the order.
    """
    n = len(rows)
    if not 1 <= splits <= n:
        raise UserError(f"{n} clips cannot be scored in {splits} splits; take 1 to {n}")
    if shuffle_seed is not None:
        rows = rows[np.random.RandomState(shuffle_seed).permutation(n)]
    edges = [i * n // splits for i in range(splits + 1)]
    scores = [score(rows[start:end]) for start, end in zip(edges[:-1], edges[1:], strict=True)]
    return SplitScore(float(np.mean(scores)), float(np.std(scores)), whole=score(rows), clips_per_split=n // splits)
