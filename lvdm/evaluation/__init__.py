"""From arrays, files or models to a number with its provenance. Imports the shared modules, config, data, models, checkpoints and
sampling; no training and no commands."""

from lvdm.evaluation.long.frame_curves import frame_curves
from lvdm.evaluation.long.report import DistanceOverTime, LongVideoReport, distance_over_time
from lvdm.evaluation.metrics.bootstrap import Interval, interval
from lvdm.evaluation.metrics.frechet import Extrapolation, Moments, extrapolated, frechet_distance
from lvdm.evaluation.metrics.inception import inception_score
from lvdm.evaluation.metrics.kernel import polynomial_mmd
from lvdm.evaluation.metrics.metric import METRICS, Metric
from lvdm.evaluation.metrics.splits import SplitScore
from lvdm.evaluation.protocols.named import PROTOCOLS, EvalProtocol, get_protocol
from lvdm.evaluation.results.curves import binned, mean_curves, write_chart, write_csv

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "DistanceOverTime",
    "EvalProtocol",
    "Extrapolation",
    "Interval",
    "LongVideoReport",
    "Metric",
    "Moments",
    "SplitScore",
    "binned",
    "distance_over_time",
    "extrapolated",
    "frame_curves",
    "frechet_distance",
    "get_protocol",
    "inception_score",
    "interval",
    "mean_curves",
    "polynomial_mmd",
    "write_chart",
    "write_csv",
]
