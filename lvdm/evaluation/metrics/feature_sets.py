"""What the metrics of sets take, checked: features (n, d), a row a clip, in float64; two sets of one kind.

Letters: n clips, d features.
"""

from __future__ import annotations

import numpy as np

from lvdm.types import UserError


def checked_features(features: np.ndarray, *, least: int = 1) -> np.ndarray:
    """Return the features as float64, once they are finite, (n, d), and of `least` clips or more."""
    if features.ndim != 2:
        raise UserError(f"features of clips are (n, d), a row a clip; got {features.shape}, so flatten each clip's to one row")
    if len(features) < least:
        raise UserError(f"a set of features needs {least} or more clips, got {len(features)}; give more videos")
    features = np.asarray(features, dtype=np.float64)
    broken = ~np.isfinite(features).all(axis=1)
    if broken.any():
        raise UserError(
            f"{broken.sum()} of {len(features)} clips have features that are not finite; the first is {broken.argmax()}"
        )
    return features


def rows_of(features: np.ndarray) -> np.ndarray:
    """Return features of frames (n, t, d) as rows (n t, d); those of clips (n, d) stay as they are."""
    return features.reshape(-1, features.shape[-1])


def require_same_dim(x_dim: int, y_dim: int) -> None:
    """Refuse two sets of features that do not come from one network."""
    if x_dim != y_dim:
        raise UserError(f"the two sets have {x_dim} and {y_dim} features a clip; take both from one extractor")
