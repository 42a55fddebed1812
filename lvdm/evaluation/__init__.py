"""Measuring generated videos. Imports lvdm.types and lvdm.models only; no sampling, no training."""

from lvdm.evaluation.curves import binned, mean_curves, write_chart, write_csv
from lvdm.evaluation.toy_clouds import score_clouds
from lvdm.evaluation.toy_discs import score_discs
from lvdm.evaluation.toy_score import ToyCurves

__all__ = ["ToyCurves", "binned", "mean_curves", "score_clouds", "score_discs", "write_chart", "write_csv"]
