"""The scores of a protocol, from features of its runs: means and deviations over runs or splits, intervals where asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lvdm.evaluation.metrics.bootstrap import interval
from lvdm.evaluation.metrics.frechet import Moments, extrapolated, frechet_distance, require_enough
from lvdm.evaluation.metrics.inception import inception_score
from lvdm.evaluation.metrics.kernel import polynomial_mmd
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.results.result import Value
from lvdm.types import UserError

LEVEL = 0.95  # of bootstrap intervals


@dataclass(frozen=True)
class ScoreOptions:
    """Beside what the protocol says.

    Args:
        metrics: which of the protocol's; all of them by default.
        resamples: of the bootstrap; 0 gives no intervals.
        extrapolate: also the Fréchet distance at infinitely many clips.
    """

    metrics: Sequence[str]
    resamples: int = 0
    extrapolate: bool = False

    def check(self, protocol: EvalProtocol) -> None:
        strange = [metric for metric in self.metrics if metric not in protocol.metrics]
        if strange:
            known = ", ".join(protocol.metrics)
            raise UserError(f"{protocol.name} measures {known}, not {strange[0]}; leave it out or take another protocol")
        if self.resamples < 0 or self.resamples == 1:
            raise UserError(f"--bootstrap {self.resamples}: an interval needs 2 resamples or more, and 200 are usual")
        if self.resamples and protocol.runs > 1:
            raise UserError(f"{protocol.name} tells its spread over {protocol.runs} runs; leave --bootstrap out or --set runs=1")
        if self.extrapolate and not {"fvd", "cdfvd"} & set(self.metrics):
            raise UserError("--extrapolate is for Fréchet distances, and none is measured here; leave it out")

    def check_counts(self, protocol: EvalProtocol, fewest: int, dim: int) -> None:
        """What cannot be scored of so many clips of `dim` features is said before they are measured."""
        if fewest < protocol.splits:
            raise UserError(f"{fewest} clips cannot be scored in {protocol.splits} splits; give more, or --set splits={fewest}")
        if self.extrapolate:
            require_enough(fewest, dim)


def scores(
    protocol: EvalProtocol, real: Sequence[np.ndarray], fake: Sequence[np.ndarray], options: ScoreOptions
) -> dict[str, Value]:
    """By metric, from features (n, d) of every run; `real` is empty where no metric looks at real clips."""
    made: dict[str, Value] = {}
    for metric in options.metrics:
        if metric == "is":
            made |= _inception(protocol, fake, options)
            continue
        distance = distance_of(metric, protocol)
        values = [distance(x, y) for x, y in zip(real, fake, strict=True)]
        made[metric] = over_runs(values) if len(values) > 1 else _with_interval(values[0], distance, (real[0], fake[0]), options)
        if options.extrapolate and metric in ("fvd", "cdfvd"):
            infinite = [extrapolated(x, y, ddof=protocol.ddof, seed=protocol.seed).value for x, y in zip(real, fake, strict=True)]
            made[f"{metric}_infinite"] = over_runs(infinite)
    return made


def paired_distances(protocol: EvalProtocol, originals: np.ndarray, made: np.ndarray, options: ScoreOptions) -> dict[str, Value]:
    """R-FVD and its like, of features (n, d) of clips and of what was made of each; a resample draws both of a clip together."""
    pairs = np.stack([originals, made], axis=1)  # (n, 2, d)
    found = {}
    for metric in options.metrics:
        distance = distance_of(metric, protocol)
        of_pairs = lambda pairs, distance=distance: distance(pairs[:, 0], pairs[:, 1])  # noqa: E731
        found[f"r_{metric}"] = _with_interval(of_pairs(pairs), of_pairs, (pairs,), options)
    return found


def mean_over(values: np.ndarray, options: ScoreOptions, *, over: str) -> Value:
    """Mean and deviation of one number for each of the `over`."""
    values = np.asarray(values, np.float64)
    return replace(_with_interval(float(values.mean()), np.mean, (values,), options), std=float(values.std()), over=over)


def distance_of(metric: str, protocol: EvalProtocol) -> Callable[[np.ndarray, np.ndarray], float]:
    """Between features (n, d) of real and of generated clips."""
    if metric == "kvd":
        return polynomial_mmd
    return lambda real, fake: frechet_distance(Moments.of(real), Moments.of(fake), ddof=protocol.ddof)


def over_runs(values: Sequence[float]) -> Value:
    """Their mean, with the deviation where there are several."""
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


def _inception(protocol: EvalProtocol, fake: Sequence[np.ndarray], options: ScoreOptions) -> dict[str, Value]:
    """Over runs where there are several, else over splits; `is_whole` is that of all clips of a run together."""
    how = {"splits": protocol.splits, "shuffle_seed": protocol.split_seed, "eps": protocol.eps}
    found = [inception_score(p, **how) for p in fake]
    if len(found) > 1:
        return {"is": over_runs([one.mean for one in found]), "is_whole": over_runs([one.whole for one in found])}
    whole = _with_interval(found[0].whole, lambda p: inception_score(p, **{**how, "splits": 1}).whole, (fake[0],), options)
    if protocol.splits == 1:
        return {"is": whole}
    return {"is": Value(found[0].mean, std=found[0].std, over="splits"), "is_whole": whole}
