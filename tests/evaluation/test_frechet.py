"""The Fréchet distance against closed forms, scipy and torchmetrics; its bias, and the line that ends it."""

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from torchmetrics.image.fid import _compute_fid

from lvdm.evaluation.metrics.frechet import Moments, extrapolated, frechet_distance
from lvdm.types import UserError


def gaussian(mean: np.ndarray, covariance: np.ndarray, count: int = 1000) -> Moments:
    """Moments that have exactly this mean and this covariance, at ddof 0."""
    return Moments(count=count, total=count * mean, outer=count * (covariance + np.outer(mean, mean)))


def random_features(count: int, dim: int, *, seed: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, dim)) * scale + 0.3 * seed) @ rng.normal(size=(dim, dim)) / dim**0.5


def test_two_diagonal_gaussians_are_apart_by_their_means_and_deviations():
    rng = np.random.default_rng(0)
    m1, m2 = rng.normal(size=(2, 6))
    s1, s2 = rng.uniform(0.1, 2.0, size=(2, 6))
    distance = frechet_distance(gaussian(m1, np.diag(s1**2)), gaussian(m2, np.diag(s2**2)), ddof=0)
    assert distance == pytest.approx(((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum(), rel=1e-12)


def test_turning_both_gaussians_leaves_their_distance():
    rng = np.random.default_rng(1)
    m1, m2 = rng.normal(size=(2, 6))
    s1, s2 = rng.uniform(0.1, 2.0, size=(2, 6))
    turn = stats.ortho_group.rvs(6, random_state=2)
    a, b = (gaussian(turn @ m, turn @ np.diag(s**2) @ turn.T) for m, s in ((m1, s1), (m2, s2)))
    assert frechet_distance(a, b, ddof=0) == pytest.approx(((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum(), rel=1e-12)


def test_two_gaussians_in_the_plane_that_do_not_commute():
    S1, S2 = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    product = S1 @ S2  # tr(M^(1/2)) = sqrt(tr M + 2 sqrt(det M)) in two dimensions
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    distance = frechet_distance(gaussian(np.zeros(2), S1), gaussian(np.zeros(2), S2), ddof=0)
    assert distance == pytest.approx(np.trace(S1 + S2) - 2 * cross, rel=1e-12)


@pytest.mark.parametrize("ddof", [0, 1])
def test_features_give_what_the_matrix_root_of_scipy_gives(ddof):
    x, y = random_features(60, 8, seed=0), random_features(45, 8, seed=1, scale=1.5)
    S1, S2 = (np.cov(features.T, ddof=ddof) for features in (x, y))
    offset = x.mean(0) - y.mean(0)
    slow = offset @ offset + np.trace(S1 + S2) - 2 * np.trace(linalg.sqrtm(S1 @ S2)).real
    assert frechet_distance(Moments.of(x), Moments.of(y), ddof=ddof) == pytest.approx(slow, rel=1e-9)


def test_features_give_what_torchmetrics_gives():
    x, y = random_features(60, 8, seed=0), random_features(45, 8, seed=1, scale=1.5)
    moments = [torch.as_tensor(part) for features in (x, y) for part in (features.mean(0), np.cov(features.T))]
    assert frechet_distance(Moments.of(x), Moments.of(y), ddof=1) == pytest.approx(float(_compute_fid(*moments)), rel=1e-9)


def test_fewer_clips_than_features_still_have_a_distance():
    x, y = random_features(12, 40, seed=0), random_features(9, 40, seed=1)
    # the trace of the root is the sum of the singular values of X1 X2^T, whatever the ranks
    X1, X2 = ((features - features.mean(0)) / np.sqrt(len(features)) for features in (x, y))
    offset = x.mean(0) - y.mean(0)
    slow = offset @ offset + (X1**2).sum() + (X2**2).sum() - 2 * np.linalg.svd(X1 @ X2.T, compute_uv=False).sum()
    assert frechet_distance(Moments.of(x), Moments.of(y), ddof=0) == pytest.approx(slow, rel=1e-6)


def test_a_set_is_at_no_distance_from_itself_and_distance_is_symmetric():
    x, y = Moments.of(random_features(50, 20, seed=0)), Moments.of(random_features(15, 20, seed=1))
    assert frechet_distance(x, x, ddof=1) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(y, y, ddof=1) == pytest.approx(0, abs=1e-6), "singular too"
    assert frechet_distance(x, y, ddof=1) == pytest.approx(frechet_distance(y, x, ddof=1), rel=1e-6)


def test_parts_add_up_to_the_whole():
    whole = random_features(31, 8, seed=3).astype(np.float32)
    parts = [Moments.of(part) for part in np.split(whole, [1, 12, 13])]
    merged, direct = parts[2] + parts[0] + parts[3] + parts[1], Moments.of(whole)
    assert merged.count == direct.count == 31
    np.testing.assert_allclose(merged.mean, whole.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(merged.covariance(1), np.cov(whole.astype(np.float64).T), rtol=1e-9)
    assert merged.outer.dtype == direct.outer.dtype == np.float64


def test_features_are_left_as_found():
    x = random_features(10, 4, seed=0)
    before = x.copy()
    frechet_distance(Moments.of(x), Moments.of(x + 1), ddof=1)
    np.testing.assert_array_equal(x, before)


def test_the_extrapolated_distance_is_nearer_the_truth_than_the_plain_one():
    rng = np.random.default_rng(0)
    plain, endless = [], []
    for seed in range(8):
        x, y = rng.normal(size=(400, 30)), rng.normal(size=(300, 30)) * 1.2 + 0.1
        plain.append(frechet_distance(Moments.of(x), Moments.of(y), ddof=1))
        endless.append(extrapolated(x, y, ddof=1, seed=seed).value)
    truth = 30 * 0.1**2 + 30 * 0.2**2
    assert np.mean(plain) > 1.8 * truth
    assert np.mean(endless) == pytest.approx(truth, rel=0.15)
    assert max(abs(value - truth) for value in endless) < min(value - truth for value in plain)


def test_the_fit_says_what_it_saw_and_repeats():
    x, y = random_features(100, 5, seed=0), random_features(80, 5, seed=1)
    fit, again, other = (extrapolated(x, y, ddof=1, seed=seed, points=6) for seed in (3, 3, 4))
    assert fit.sizes.tolist() == [40, 48, 56, 64, 72, 80] and len(fit.distances) == 6
    known = stats.linregress(1 / fit.sizes, fit.distances)
    assert (fit.value, fit.slope, fit.fit_error) == pytest.approx((known.intercept, known.slope, known.intercept_stderr))
    assert fit.value == again.value != other.value


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Moments.of(np.zeros((2, 3, 4))), r"\(n, d\).*got \(2, 3, 4\)"),
        (lambda: Moments.of(np.zeros((0, 3))), "needs 1 or more clips"),
        (lambda: Moments.of(np.array([[0.0], [np.nan], [np.inf]])), "2 of 3 clips .* not finite; the first is 1"),
        (lambda: Moments.of(np.zeros((2, 3))) + Moments.of(np.zeros((2, 4))), "3 and 4 features a clip"),
        (lambda: frechet_distance(Moments.of(np.zeros((2, 3))), Moments.of(np.zeros((2, 4))), ddof=0), "3 and 4 features"),
        (lambda: Moments.of(np.zeros((1, 3))).covariance(1), "more than 1 clips, got 1"),
        (lambda: extrapolated(np.zeros((20, 10)), np.zeros((30, 10)), ddof=0, seed=0), "give 22 clips, not 20"),
        (lambda: extrapolated(np.zeros((9, 3)), np.zeros((9, 3)), ddof=0, seed=0, points=2), "3 points or more, got 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(made, words):
    with pytest.raises(UserError, match=words):
        made()
