"""Measuring generated videos. Imports lvdm.types and lvdm.models only; no sampling, no training."""

from lvdm.evaluation.long.frame_curves import frame_curves
from lvdm.evaluation.long.report import DistanceOverTime, LongVideoReport, distance_over_time
from lvdm.evaluation.metrics.bootstrap import Interval, interval
from lvdm.evaluation.metrics.frechet import Extrapolation, Moments, extrapolated, frechet_distance
from lvdm.evaluation.metrics.inception import InceptionScore, inception_score
from lvdm.evaluation.metrics.kernel import polynomial_mmd
from lvdm.evaluation.results.curves import binned, mean_curves, write_chart, write_csv

__all__ = [
    "DistanceOverTime",
    "Extrapolation",
    "InceptionScore",
    "Interval",
    "LongVideoReport",
    "Moments",
    "binned",
    "distance_over_time",
    "extrapolated",
    "frame_curves",
    "frechet_distance",
    "inception_score",
    "interval",
    "mean_curves",
    "polynomial_mmd",
    "write_chart",
    "write_csv",
]
