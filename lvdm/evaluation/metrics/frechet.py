"""Fréchet distance of two sets of features (FVD on I3D's logits): of two Gaussians with the sets' means and covariances.

Letters: n clips, d features, m mean, S covariance (Unterthiner et al. 2018, section 3, after Dowson and Landau 1982):
|m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)). With finite n it is too large, by about a constant over n, so distances of
different n are not comparable; `extrapolated` follows that line to its end (Chong and Forsyth 2020, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lvdm.evaluation.metrics.feature_sets import checked_features, require_same_dim
from lvdm.evaluation.metrics.metric import METRICS, Metric
from lvdm.seeding import numpy_generator
from lvdm.types import UserError

POINTS = 15  # sizes of subsets through which the line is drawn, as Chong and Forsyth
SMALLEST = 0.5  # of all clips; below it the line bends, far above it there is little line to see


@dataclass(frozen=True)
class Moments:
    """Sums over clips, in float64: sets that were counted apart, on any number of processes, add up."""

    count: int
    total: np.ndarray  # (d,) sum of x
    outer: np.ndarray  # (d, d) sum of x x^T

    @staticmethod
    def of(features: np.ndarray) -> Moments:
        """Return the moments of features (n, d)."""
        x = checked_features(features)
        return Moments(count=len(x), total=x.sum(axis=0), outer=x.T @ x)

    def __add__(self, other: Moments) -> Moments:
        require_same_dim(self.dim, other.dim)
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def dim(self) -> int:
        """Return d, the number of features of a clip."""
        return len(self.total)

    @property
    def mean(self) -> np.ndarray:
        """Return (d,), the mean of the features."""
        return self.total / self.count

    def covariance(self, ddof: int) -> np.ndarray:
        """Return (d, d), divided by count - ddof: 0 as StyleGAN-V, 1 as TATS and LVDM."""
        if self.count <= ddof:
            raise UserError(f"a covariance with ddof {ddof} needs more than {ddof} clips, got {self.count}; give more videos")
        return (self.outer - np.outer(self.total, self.mean)) / (self.count - ddof)


def frechet_distance(a: Moments, b: Moments, *, ddof: int) -> float:
    """Return the squared distance, as every FVD is. For singular covariances (n <= d) it is defined, but far too large."""
    require_same_dim(a.dim, b.dim)
    S1, S2 = a.covariance(ddof), b.covariance(ddof)
    offset = a.mean - b.mean
    distance = offset @ offset + np.trace(S1) + np.trace(S2) - 2 * _trace_of_root(S1, S2)
    return max(float(distance), 0.0)  # rounding leaves equal sets a hair to either side


def _trace_of_root(S1: np.ndarray, S2: np.ndarray) -> float:
    """tr((S1 S2)^(1/2)): S1^(1/2) S2 S1^(1/2) has the same eigenvalues as S1 S2, and is symmetric."""
    values, vectors = np.linalg.eigh(S1)
    half = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    return float(np.sqrt(np.clip(np.linalg.eigvalsh(half @ S2 @ half), 0, None)).sum())


@dataclass(frozen=True)
class Extrapolation:
    """distance(n) = value + slope / n, fitted to subsets of n clips."""

    value: float  # at n = infinity
    fit_error: float  # standard error of value about the line; how much other clips would change it, `interval` says
    slope: float
    sizes: np.ndarray  # (points,) n of each subset
    distances: np.ndarray  # (points,)


def extrapolated(real: np.ndarray, fake: np.ndarray, *, ddof: int, seed: int, points: int = POINTS) -> Extrapolation:
    """Return the Fréchet distance without its bias: a line in 1/n through those of random subsets of both sets.

    Chong and Forsyth hold the real set fixed, and with it the bias that it brings; here both shrink together, and both biases go.
    """
    real, fake = checked_features(real), checked_features(fake)
    most = min(len(real), len(fake))
    require_enough(most, real.shape[1])
    if points < 3:
        raise UserError(f"a line with its error needs 3 points or more, got {points}; {POINTS} are usual")
    rng = numpy_generator(seed)
    sizes = np.linspace(int(most * SMALLEST), most, points).round().astype(int)
    distances = np.array([frechet_distance(_some(real, n, rng), _some(fake, n, rng), ddof=ddof) for n in sizes])
    value, slope, fit_error = _line(1 / sizes, distances)
    return Extrapolation(value=value, fit_error=fit_error, slope=slope, sizes=sizes, distances=distances)


def require_enough(most: int, dim: int) -> None:
    """Refuse too few clips for the line."""
    if int(most * SMALLEST) <= dim:
        need = int(dim / SMALLEST) + 2
        raise UserError(f"the line in 1/n is straight only where n is above the {dim} features: give {need} clips, not {most}")


def _some(features: np.ndarray, n: int, rng: np.random.Generator) -> Moments:
    return Moments.of(features[rng.permutation(len(features))[:n]])


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Return the least-squares value at 0, the slope, and the standard error of the value."""
    design = np.stack([np.ones_like(x), x], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    value, slope = inverse @ design.T @ y
    residual = y - design @ (value, slope)
    return float(value), float(slope), float(np.sqrt(residual @ residual / (len(x) - 2) * inverse[0, 0]))


# The metrics -------------------------------------------------------------------------------------------------------------


def between(real: np.ndarray | Moments, fake: np.ndarray, *, ddof: int) -> float:
    """Return the distance of features (n, d), or of the moments of real ones."""
    return frechet_distance(real if isinstance(real, Moments) else Moments.of(real), Moments.of(fake), ddof=ddof)


def _at_infinity(real: np.ndarray, fake: np.ndarray, *, ddof: int, seed: int) -> float:
    return extrapolated(real, fake, ddof=ddof, seed=seed).value


FRECHET = Metric(
    name="fvd",
    what="Fréchet video distance: of I3D's logits (Unterthiner et al. 2018)",
    kind="distance",
    compute=between,
    random="random-i3d",
    reads=("ddof",),
    at_infinity=_at_infinity,
    takes_moments=True,
    needs_covariance=True,
)
METRICS.add(FRECHET)
METRICS.add(replace(FRECHET, name="cdfvd", what="content-debiased FVD: of VideoMAE's features (Ge et al. 2024)", random=None))
