"""The moving average of the weights, with warm-up; validation, previews and the model file use it.

LVDM: decay min(decay, (1 + n) / (10 + n)) after n updates.
"""

from __future__ import annotations

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


def warmed_up_decay(decay: float, num_updates: int) -> float:
    return min(decay, (1 + num_updates) / (10 + num_updates))


class ExponentialAverage(WeightAveraging):
    """Lightning's averaging with the decay of LVDM; `decay: 0` would keep no memory and is refused by the config."""

    def __init__(self, decay: float = 0.9999) -> None:
        def average(averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
            weight = 1 - warmed_up_decay(decay, int(num_averaged))
            pairs = [(a, c) for a, c in zip(averaged, current, strict=True) if a.is_floating_point()]
            torch._foreach_lerp_([a for a, _ in pairs], [c for _, c in pairs], weight)

        super().__init__(use_buffers=False, multi_avg_fn=average)
