"""Inception score of generated clips: each should be of one class (sharp), all together of every class (diverse).

Letters: n clips, c classes, p(y|x) a row of probabilities, p(y) their mean: exp(mean_x KL(p(y|x) || p(y))), between 1 and c
(Salimans et al. 2016, section 4). It grows with the clips of a split: scores of 204, 2048 and 10,000 are not comparable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lvdm.types import UserError


@dataclass(frozen=True)
class InceptionScore:
    mean: float  # over the splits
    std: float  # over the splits; 0 where there is one
    whole: float  # of all clips as one split
    clips_per_split: int  # the smallest split's


def inception_score(probabilities: np.ndarray, *, splits: int, shuffle_seed: int | None, eps: float) -> InceptionScore:
    """Of probabilities (n, c), a row a clip.

    Args:
        splits: parts that are scored apart; 1 as TGANv2, 10 as StyleGAN-V.
        shuffle_seed: of the order before splitting, drawn as StyleGAN-V does (42 there); None keeps the order.
        eps: added within the logarithms: 1e-20 as TGANv2; 0 takes the limit, 0 log 0 = 0.
    """
    p = _checked(probabilities)
    if not 1 <= splits <= len(p):
        raise UserError(f"{len(p)} clips cannot be scored in {splits} splits; take 1 to {len(p)}")
    if shuffle_seed is not None:
        p = p[np.random.RandomState(shuffle_seed).permutation(len(p))]
    edges = [i * len(p) // splits for i in range(splits + 1)]
    scores = [_score(p[start:end], eps) for start, end in zip(edges[:-1], edges[1:], strict=True)]
    return InceptionScore(
        mean=float(np.mean(scores)), std=float(np.std(scores)), whole=_score(p, eps), clips_per_split=len(p) // splits
    )


def _score(p: np.ndarray, eps: float) -> float:
    divergence = p * (_log(p + eps) - _log(p.mean(axis=0) + eps))
    return float(np.exp(divergence.sum(axis=1).mean()))


def _log(p: np.ndarray) -> np.ndarray:
    return np.log(p, out=np.zeros_like(p), where=p > 0)  # where p is 0, its factor is 0 too


def _checked(probabilities: np.ndarray) -> np.ndarray:
    if probabilities.ndim != 2 or len(probabilities) == 0:
        raise UserError(f"probabilities are (clips, classes); got {probabilities.shape}, so give one row a clip")
    p = np.asarray(probabilities, dtype=np.float64)
    if not ((p >= 0).all() and np.allclose(p.sum(axis=1), 1, atol=1e-3)):  # NaN fails too
        raise UserError("rows of probabilities must be 0 or more and sum to 1; give the network's softmax, not its logits")
    return p
