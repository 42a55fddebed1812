"""The kernel distance, the inception score and bootstrap intervals, each against its definition."""

from functools import partial
from itertools import product

import numpy as np
import pytest
from torch import as_tensor
from torchmetrics.image.kid import poly_mmd

from lvdm.evaluation.metrics.bootstrap import interval
from lvdm.evaluation.metrics.frechet import Moments, frechet_distance
from lvdm.evaluation.metrics.inception import inception_score
from lvdm.evaluation.metrics.kernel import polynomial_mmd
from lvdm.types import UserError


def normal(count: int, dim: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim))


def slow_mmd(x: np.ndarray, y: np.ndarray, *, degree: int, gamma: float, coef0: float) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (gamma * sum(p * q for p, q in zip(a, b, strict=True)) + coef0) ** degree

    within = [
        sum(k(a, b) for (i, a), (j, b) in product(enumerate(z), repeat=2) if i != j) / (len(z) * (len(z) - 1)) for z in (x, y)
    ]
    return sum(within) - 2 * sum(k(a, b) for a, b in product(x, y)) / (len(x) * len(y))


@pytest.mark.parametrize("options", [{"degree": 3, "gamma": 0.25, "coef0": 1.0}, {"degree": 2, "gamma": 0.7, "coef0": 0.1}])
def test_the_kernel_distance_is_its_sum_over_pairs(options):
    x, y = normal(9, 4, seed=0), normal(7, 4, seed=1) + 0.5
    assert polynomial_mmd(x, y, **options) == pytest.approx(slow_mmd(x, y, **options), rel=1e-9)


def test_the_kernel_distance_takes_scikit_learns_defaults():
    metrics = pytest.importorskip("sklearn.metrics.pairwise")
    x, y = normal(20, 6, seed=0), normal(15, 6, seed=1) + 0.5
    xx, yy, xy = (metrics.polynomial_kernel(*pair) for pair in ((x, x), (y, y), (x, y)))
    slow = (xx.sum() - np.trace(xx)) / (20 * 19) + (yy.sum() - np.trace(yy)) / (15 * 14) - 2 * xy.mean()
    assert polynomial_mmd(x, y) == pytest.approx(slow, rel=1e-9)


def test_the_kernel_distance_is_what_torchmetrics_gives_for_sets_of_one_size():
    x, y = normal(20, 6, seed=0), normal(20, 6, seed=1) + 0.5
    assert polynomial_mmd(x, y) == pytest.approx(float(poly_mmd(as_tensor(x), as_tensor(y))), rel=1e-9)


def test_blocks_leave_the_kernel_distance_as_it_is():
    x, y = normal(23, 6, seed=0), normal(31, 6, seed=1) + 0.5
    assert polynomial_mmd(x, y, block=5) == pytest.approx(polynomial_mmd(x, y), rel=1e-12)


def test_equal_distributions_are_at_no_kernel_distance_in_the_mean():
    scores = np.array([polynomial_mmd(normal(30, 8, seed=2 * i), normal(40, 8, seed=2 * i + 1)) for i in range(200)])
    assert abs(scores.mean()) < 3 * scores.std() / np.sqrt(len(scores)) and (scores < 0).any()
    assert polynomial_mmd(normal(300, 8, seed=0), normal(300, 8, seed=1) + 1) > 20 * scores.std()


def test_sure_and_even_classes_score_their_number_and_one_answer_for_all_scores_one():
    for eps in (0.0, 1e-20):
        sure = inception_score(np.tile(np.eye(7), (4, 1)), splits=4, shuffle_seed=None, eps=eps)
        assert (sure.mean, sure.std, sure.whole) == pytest.approx((7, 0, 7)) and sure.clips_per_split == 7
        same = inception_score(np.tile(np.array([0.5, 0.3, 0.2]), (12, 1)), splits=3, shuffle_seed=None, eps=eps)
        assert (same.mean, same.std, same.whole) == pytest.approx((1, 0, 1))


def test_the_inception_score_is_the_mean_divergence_of_its_definition():
    p = np.random.default_rng(0).dirichlet(np.ones(5), size=11)
    marginal = p.mean(0)
    slow = np.exp(np.mean([sum(q * np.log(q / m) for q, m in zip(row, marginal, strict=True)) for row in p]))
    assert inception_score(p, splits=1, shuffle_seed=None, eps=0).mean == pytest.approx(slow, rel=1e-12)


def test_splits_are_scored_apart_and_their_spread_told():
    p = np.random.default_rng(0).dirichlet(np.ones(5), size=11)
    score = inception_score(p, splits=3, shuffle_seed=None, eps=0)
    apart = [inception_score(part, splits=1, shuffle_seed=None, eps=0).whole for part in (p[:3], p[3:7], p[7:])]
    assert (score.mean, score.std) == pytest.approx((np.mean(apart), np.std(apart)))
    assert score.clips_per_split == 3 and score.whole > score.mean, "few clips a split score low"


def test_clips_are_shuffled_as_numpys_old_generator_shuffles_rows():
    p = np.random.default_rng(0).dirichlet(np.ones(5), size=40)
    by_rows = p.copy()
    np.random.RandomState(42).shuffle(by_rows)
    assert inception_score(p, splits=10, shuffle_seed=42, eps=0) == inception_score(by_rows, splits=10, shuffle_seed=None, eps=0)


def test_the_interval_of_a_mean_is_the_textbooks():
    x = normal(400, 1, seed=0)[:, 0] * 3 + 5
    found = interval(np.mean, x, resamples=4000, level=0.9)
    half = 1.645 * x.std() / 20
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.05 * half)
    assert (found.value, found.level, found.resamples) == (x.mean(), 0.9, 4000) and abs(found.shift) < 0.05 * half


def test_the_same_seed_gives_the_same_interval_and_sets_are_drawn_apart():
    x = normal(30, 1, seed=0)
    difference = partial(interval, lambda a, b: float((a - b).mean()), x, x, resamples=50)
    assert difference(seed=1) == difference(seed=1) != difference(seed=2)
    assert difference(seed=1).high > 0, "the same draw for both would leave nothing"


def test_the_interval_of_the_frechet_distance_holds_the_mean_over_fresh_sets_but_plain_percentiles_lie_above():
    def fresh(seed: int) -> tuple[np.ndarray, np.ndarray]:
        return normal(60, 12, seed=2 * seed), normal(60, 12, seed=2 * seed + 1) * 1.2 + 0.3

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        return frechet_distance(Moments.of(x), Moments.of(y), ddof=1)

    expected = np.mean([distance(*fresh(seed)) for seed in range(1000, 1300)])
    found = [interval(distance, *fresh(seed), resamples=80) for seed in range(25)]
    assert np.mean([one.low <= expected <= one.high for one in found]) >= 0.9
    assert np.mean([one.low + one.shift <= expected for one in found]) < 0.2


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: polynomial_mmd(np.zeros((1, 3)), np.zeros((5, 3))), "needs 2 or more clips, got 1"),
        (lambda: polynomial_mmd(np.zeros((5, 3)), np.zeros((5, 4))), "3 and 4 features a clip"),
        (lambda: inception_score(np.zeros(3), splits=1, shuffle_seed=None, eps=0), r"\(clips, classes\); got \(3,\)"),
        (lambda: inception_score(normal(4, 3, seed=0), splits=1, shuffle_seed=None, eps=0), "softmax, not its logits"),
        (lambda: inception_score(np.full((4, 3), np.nan), splits=1, shuffle_seed=None, eps=0), "sum to 1"),
        (lambda: inception_score(np.eye(3), splits=4, shuffle_seed=None, eps=0), "3 clips cannot be scored in 4 splits"),
        (lambda: interval(np.mean, np.zeros(5), resamples=1), "2 resamples or more"),
        (lambda: interval(np.mean, np.zeros(5), level=95), "level within 0 and 1; got 200 and 95"),
        (lambda: interval(np.mean, np.zeros(1)), r"2 clips or more in each set, got \[1\]"),
    ],
)
def test_what_cannot_be_scored_is_refused(made, words):
    with pytest.raises(UserError, match=words):
        made()
