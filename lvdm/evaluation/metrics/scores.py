"""The scores of a protocol, from features of its runs: means and deviations over runs or splits, intervals if requested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from lvdm.evaluation.metrics.bootstrap import interval
from lvdm.evaluation.metrics.frechet import Moments, require_enough
from lvdm.evaluation.metrics.metric import METRICS, Metric
from lvdm.evaluation.metrics.splits import in_splits
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.results.result import Value
from lvdm.types import UserError

LEVEL = 0.95  # of bootstrap intervals


@dataclass(frozen=True)
class ScoreOptions:
    """Options of the scores, besides those of the protocol.

    Args:
        metrics: which of the protocol's.
        resamples: of the bootstrap; 0 gives no intervals.
        extrapolate: also the distances at infinitely many clips.
    """

    metrics: Sequence[str]
    resamples: int = 0
    extrapolate: bool = False

    def check(self, protocol: EvalProtocol) -> None:
        """Refuse what the protocol cannot measure or what would have no effect."""
        strange = [metric for metric in self.metrics if metric not in protocol.metrics]
        if strange:
            known = ", ".join(protocol.metrics)
            raise UserError(f"{protocol.name} measures {known}, not {strange[0]}; leave it out or take another protocol")
        if self.resamples < 0 or self.resamples == 1:
            raise UserError(f"bootstrap is {self.resamples}, but an interval needs 2 resamples or more; 200 are usual")
        if self.resamples and protocol.runs > 1:
            spread = f"{protocol.name} gives its spread over {protocol.runs} runs"
            raise UserError(f"{spread}; leave bootstrap out or change the protocol to runs=1")
        if self.extrapolate and not any(METRICS[metric].at_infinity for metric in self.metrics):
            raise UserError("extrapolate has an effect on Fréchet distances only, and none is measured here; leave it out")

    def check_counts(self, protocol: EvalProtocol, fewest: int, dim: int) -> None:
        """Refuse, before anything is measured, too few clips of `dim` features."""
        if fewest < protocol.splits:
            how = f"give more, or change the protocol to splits={fewest}"
            raise UserError(f"{fewest} clips cannot be scored in {protocol.splits} splits; {how}")
        if self.extrapolate:
            require_enough(fewest, dim)


def scores(
    protocol: EvalProtocol, real: Sequence[np.ndarray] | Sequence[Moments], fake: Sequence[np.ndarray], options: ScoreOptions
) -> dict[str, Value]:
    """Return values by name, from features (n, d) of every run; `real` is empty if no metric looks at real clips.

    Features of frames are (n, t, d). Moments may stand for real clips if every metric takes them and nothing is resampled.
    """
    made: dict[str, Value] = {}
    for name in options.metrics:
        metric = METRICS[name]
        is_score = metric.kind == "score"
        made |= _over_splits(metric, protocol, fake, options) if is_score else _distances(metric, protocol, real, fake, options)
    return made


def _distances(
    metric: Metric, protocol: EvalProtocol, real: Sequence[Any], fake: Sequence[np.ndarray], options: ScoreOptions
) -> dict[str, Value]:
    distance = metric.under(protocol)
    values = [distance(x, y) for x, y in zip(real, fake, strict=True)]
    of_runs = over_runs(values) if len(values) > 1 else _with_interval(values[0], distance, (real[0], fake[0]), options)
    if not options.extrapolate or metric.at_infinity is None:
        return {metric.name: of_runs}
    fields = {field: getattr(protocol, field) for field in metric.reads}
    infinite = [metric.at_infinity(x, y, seed=protocol.seed, **fields) for x, y in zip(real, fake, strict=True)]
    return {metric.name: of_runs, f"{metric.name}_infinite": over_runs(infinite)}


def _over_splits(metric: Metric, protocol: EvalProtocol, fake: Sequence[np.ndarray], options: ScoreOptions) -> dict[str, Value]:
    """Return the score over several runs, else over splits; `_whole` is that of all clips of a run together."""
    score, whole = metric.name, f"{metric.name}_whole"
    split = partial(in_splits, metric.under(protocol), shuffle_seed=protocol.split_seed)
    found = [split(rows, splits=protocol.splits) for rows in fake]
    if len(found) > 1:
        return {score: over_runs([one.mean for one in found]), whole: over_runs([one.whole for one in found])}
    of_all = _with_interval(found[0].whole, lambda rows: split(rows, splits=1).whole, (fake[0],), options)
    if protocol.splits == 1:
        return {score: of_all}
    return {score: Value(found[0].mean, std=found[0].std, over="splits"), whole: of_all}


def paired_distances(protocol: EvalProtocol, originals: np.ndarray, made: np.ndarray, options: ScoreOptions) -> dict[str, Value]:
    """Return R-FVD and the like, of features (n, d) of clips and of their reconstructions; a resample draws both of a clip."""
    pairs = np.stack([originals, made], axis=1)  # (n, 2, d)
    found = {}
    for metric in options.metrics:
        distance = METRICS[metric].under(protocol)
        of_pairs = lambda pairs, distance=distance: distance(pairs[:, 0], pairs[:, 1])  # noqa: E731
        found[f"r_{metric}"] = _with_interval(of_pairs(pairs), of_pairs, (pairs,), options)
    return found


def mean_over(values: np.ndarray, options: ScoreOptions, *, over: str) -> Value:
    """Return the mean and deviation of one number for each of the `over`."""
    values = np.asarray(values, np.float64)
    return replace(_with_interval(float(values.mean()), np.mean, (values,), options), std=float(values.std()), over=over)


def over_runs(values: Sequence[float]) -> Value:
    """Return the mean of runs, with the deviation if there are several."""
    if len(values) == 1:
        return Value(float(values[0]))
    return Value(float(np.mean(values)), std=float(np.std(values)), over="runs")


def _with_interval(
    value: float, statistic: Callable[..., float], samples: tuple[np.ndarray, ...], options: ScoreOptions
) -> Value:
    if not options.resamples:
        return Value(value)
    found = interval(statistic, *samples, resamples=options.resamples, level=LEVEL)
    return Value(value, interval=(found.low, found.high), level=LEVEL)
