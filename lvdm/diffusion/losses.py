"""Distances between prediction and target, element by element; weighting and averaging are the caller's.

LVDM takes L1 for sky, ucf and taichi, L2 for text-to-video.
"""

from __future__ import annotations

from torch import Tensor


class L1Loss:
    """The absolute difference."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs()


class L2Loss:
    """The squared difference."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target) ** 2
