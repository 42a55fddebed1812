"""Measuring generated videos. Imports lvdm.types and lvdm.models only; no sampling, no training."""

from lvdm.evaluation.bootstrap import Interval, interval
from lvdm.evaluation.curves import binned, mean_curves, write_chart, write_csv
from lvdm.evaluation.frame_curves import frame_curves
from lvdm.evaluation.frechet import Extrapolation, Moments, extrapolated, frechet_distance
from lvdm.evaluation.inception import InceptionScore, inception_score
from lvdm.evaluation.kernel import polynomial_mmd
from lvdm.evaluation.long_video import DistanceOverTime, LongVideoReport, distance_over_time

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
