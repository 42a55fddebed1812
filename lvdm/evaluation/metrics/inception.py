"""Inception score of generated clips: each should be of one class (sharp), all together of every class (diverse).

Letters: n clips, c classes, p(y|x) a row of probabilities, p(y) their mean: exp(mean_x KL(p(y|x) || p(y))), between 1 and c
(Salimans et al. 2016, section 4). It grows with the clips of a split: scores of 204, 2048 and 10,000 are not comparable.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from lvdm.evaluation.metrics.metric import METRICS, Metric
from lvdm.evaluation.metrics.splits import SplitScore, in_splits
from lvdm.types import UserError


def inception_score(probabilities: np.ndarray, *, splits: int, shuffle_seed: int | None, eps: float) -> SplitScore:
    """Return the score of probabilities (n, c), a row a clip, over splits.

    Args:
        splits, shuffle_seed: as `in_splits` has them.
        eps: added within the logarithms: 1e-20 as TGANv2; 0 takes the limit, 0 log 0 = 0.
    """
    return in_splits(partial(_score, eps=eps), _checked(probabilities), splits=splits, shuffle_seed=shuffle_seed)


def inception_score_of_all(probabilities: np.ndarray, *, eps: float) -> float:
    """Return the score of probabilities (n, c) in one split."""
    return _score(_checked(probabilities), eps=eps)


def _score(p: np.ndarray, *, eps: float) -> float:
    divergence = p * (_log(p + eps) - _log(p.mean(axis=0) + eps))
    return float(np.exp(divergence.sum(axis=1).mean()))


def _log(p: np.ndarray) -> np.ndarray:
    return np.log(p, out=np.zeros_like(p), where=p > 0)  # if p is 0, its factor is 0 too


def _checked(probabilities: np.ndarray) -> np.ndarray:
    if probabilities.ndim != 2 or len(probabilities) == 0:
        raise UserError(f"probabilities are (clips, classes); got {probabilities.shape}, so give one row a clip")
    p = np.asarray(probabilities, dtype=np.float64)
    if not ((p >= 0).all() and np.allclose(p.sum(axis=1), 1, atol=1e-3)):  # NaN fails too
        raise UserError("rows of probabilities must be 0 or more and sum to 1; give the network's softmax, not its logits")
    return p


METRICS.add(
    Metric(
        name="is",
        what="inception score: of C3D's class probabilities (Saito et al. 2020)",
        kind="score",
        compute=inception_score_of_all,
        random="random-c3d",
        reads=("eps",),
    )
)
