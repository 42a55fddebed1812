"""The exponential moving average of the weights, with warm-up; validation, previews and the model file use it.

LVDM: the decay is min(decay, (1 + n) / (10 + n)) after n updates. The first update copies the weights.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from lvdm.training.lightning_internals import average_model
from lvdm.training.sharding import Sharded, full_state
from lvdm.types import UserError


def warmed_up_decay(decay: float, num_updates: int) -> float:
    """Return the decay after a number of updates."""
    return min(decay, (1 + num_updates) / (10 + num_updates))


class ExponentialAverage(WeightAveraging):
    """Lightning's weight averaging with LVDM's decay, updated after every optimizer step."""

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 < decay < 1:
            raise UserError(
                f"the decay of the averaged weights is {decay}, expected a number between 0 and 1 such as 0.9999; "
                "average: 0 turns averaging off"
            )

        def average(averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
            weight = 1 - warmed_up_decay(decay, self._updates)
            for kind in {type(a) for a in averaged}:  # foreach cannot mix sharded and full tensors
                pairs = [(a, c) for a, c in zip(averaged, current, strict=True) if type(a) is kind and a.is_floating_point()]
                torch._foreach_lerp_([a for a, _ in pairs], [c for _, c in pairs], weight)

        super().__init__(use_buffers=False, multi_avg_fn=average)
        self._updates = 0  # `num_averaged` is on the device, and reading it would synchronise

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None:
            return False
        self._updates = step_idx
        return True

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the average to the weights' device; Lightning creates it before they move, and leaves it on the CPU."""
        averaged = average_model(self)
        count = averaged.n_averaged  # stays on the CPU, because reading it must not synchronise
        if isinstance(trainer.strategy, Sharded):
            trainer.strategy.shard(averaged.module)
        averaged.to(pl_module.device)
        averaged.n_averaged = count.cpu()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["state_dict"] = full_state(checkpoint["state_dict"])
