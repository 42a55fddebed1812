"""Kernel distance of two sets of features (KVD on I3D's logits): squared maximum mean discrepancy of a polynomial kernel.

Letters: n clips of x, m of y, d features, k(x, y) = (gamma x.y + coef0)^degree. Unbiased (Gretton et al. 2012, eq. 3; Binkowski
et al. 2018, section 4): a clip is never compared with itself, so equal distributions score 0 in the mean, and single scores
fall below it. Over all clips at once, as TATS and LVDM report KVD; KID averages over random subsets and is another number.
"""

from __future__ import annotations

import numpy as np

from lvdm.evaluation.metrics.feature_sets import checked_features, require_same_dim
from lvdm.evaluation.metrics.metric import METRICS, Metric

BLOCK = 1024  # clips a side of the part of the kernel matrix that is held at a time: 8 MB


def polynomial_mmd(
    x: np.ndarray, y: np.ndarray, *, degree: int = 3, gamma: float | None = None, coef0: float = 1.0, block: int = BLOCK
) -> float:
    """Return the distance of features (n, d) and (m, d); `gamma` is 1/d by default."""
    x, y = checked_features(x, least=2), checked_features(y, least=2)
    require_same_dim(x.shape[1], y.shape[1])
    scale = 1 / x.shape[1] if gamma is None else gamma

    def kernel(dots: np.ndarray) -> np.ndarray:
        return (scale * dots + coef0) ** degree

    def total(a: np.ndarray, b: np.ndarray) -> float:
        parts = ((a[i : i + block], b[j : j + block]) for i in range(0, len(a), block) for j in range(0, len(b), block))
        return sum(float(kernel(rows @ columns.T).sum()) for rows, columns in parts)

    def mean_of_pairs(a: np.ndarray) -> float:
        return (total(a, a) - float(kernel((a * a).sum(axis=1)).sum())) / (len(a) * (len(a) - 1))

    return mean_of_pairs(x) + mean_of_pairs(y) - 2 * total(x, y) / (len(x) * len(y))


METRICS.add(
    Metric(
        name="kvd",
        what="kernel video distance: of I3D's logits (Unterthiner et al. 2018)",
        kind="distance",
        compute=polynomial_mmd,
        random="random-i3d",
    )
)
