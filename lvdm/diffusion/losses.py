"""Distances between prediction and target, element by element; weighting and averaging are the caller's.

LVDM takes L1 for sky, ucf and taichi, L2 for text-to-video.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from lvdm.rules import number, require


class L1Loss:
    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs()


class L2Loss:
    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target) ** 2


@dataclass(frozen=True)
class HuberLoss:
    """d^2 / 2 up to `delta`, then the line that goes on from there: delta (|d| - delta / 2)."""

    delta: float = 1.0

    def __post_init__(self) -> None:
        require(number(1e-6, 1e6), delta=self.delta)  # for a plain absolute difference there is L1Loss

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return functional.huber_loss(prediction, target, reduction="none", delta=self.delta)
