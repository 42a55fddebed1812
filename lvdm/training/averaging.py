"""The moving average of the weights, with warm-up; validation, previews and the model file use it.

LVDM: decay min(decay, (1 + n) / (10 + n)) after n updates. The first update takes the weights as they are.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from lvdm.training.parts import gathered
from lvdm.training.sharding import Sharded
from lvdm.types import UserError


def warmed_up_decay(decay: float, num_updates: int) -> float:
    return min(decay, (1 + num_updates) / (10 + num_updates))


class ExponentialAverage(WeightAveraging):
    """Lightning's averaging with the decay of LVDM, once for every optimizer step."""

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 < decay < 1:
            raise UserError(
                f"the decay of the averaged weights is {decay}, expected between 0 and 1 such as 0.9999; 0 averages nothing"
            )

        def average(averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
            weight = 1 - warmed_up_decay(decay, self._updates)
            for kind in {type(a) for a in averaged}:  # in parts or whole: not at once
                pairs = [(a, c) for a, c in zip(averaged, current, strict=True) if type(a) is kind and a.is_floating_point()]
                torch._foreach_lerp_([a for a, _ in pairs], [c for _, c in pairs], weight)

        super().__init__(use_buffers=False, multi_avg_fn=average)
        self._updates = 0  # the count that `average` is given lies on the device, and to read it would wait for that

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None:
            return False
        self._updates = step_idx
        return True

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where the weights are: Lightning makes the average before they go to their device, and would leave it on the CPU."""
        assert self._average_model is not None
        count = self._average_model.n_averaged  # stays: asking for it must not wait for the device
        if isinstance(trainer.strategy, Sharded):
            trainer.strategy.shard(self._average_model.module)
        self._average_model.to(pl_module.device)
        self._average_model.n_averaged = count.cpu()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["state_dict"] = gathered(checkpoint["state_dict"])
