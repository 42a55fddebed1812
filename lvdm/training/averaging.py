"""The exponential moving average of the weights, with warm-up; validation, previews and the model file use it.

LVDM: the decay is min(decay, (1 + n) / (10 + n)) after n updates. The first update copies the weights.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from lvdm.training.lightning_internals import average_model, is_unaveraged
from lvdm.training.sharding import Sharded, full_state
from lvdm.types import UserError


def warmed_up_decay(decay: float, num_updates: int) -> float:
    """Return the decay after a number of updates."""
    return min(decay, (1 + num_updates) / (10 + num_updates))


class ExponentialAverage(WeightAveraging):
    """Lightning's weight averaging with LVDM's decay.

    The average is in float32, even of weights in bfloat16, which are too coarse for small changes.

    Args:
        decay: of the average, once it is warmed up.
        each_batch: update after every batch, as published, and not only when accumulated batches make a step.
    """

    def __init__(self, decay: float = 0.9999, *, each_batch: bool = False) -> None:
        if not 0 < decay < 1:
            raise UserError(
                f"the decay of the averaged weights is {decay}, expected a number between 0 and 1 such as 0.9999; "
                "average: 0 turns averaging off"
            )
        super().__init__(use_buffers=False)
        self.decay, self.each_batch = decay, each_batch
        self._exact: list[Tensor] = []  # the average during validation, if the weights are coarser

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_unaveraged(self, trainer.global_step) or self.each_batch:
            self._update(pl_module)

    @torch.no_grad()
    def _update(self, module: pl.LightningModule) -> None:
        averaged = average_model(self)
        both = zip(averaged.module.parameters(), module.parameters(), strict=True)
        pairs = [(average.detach(), weight.detach().to(average.dtype)) for average, weight in both if average.is_floating_point()]
        num_updates = int(averaged.n_averaged)  # on the CPU
        share = 1.0 if num_updates == 0 else 1 - warmed_up_decay(self.decay, num_updates)
        for kind in {type(average) for average, _ in pairs}:  # foreach cannot mix sharded and full tensors
            chosen = [pair for pair in pairs if type(pair[0]) is kind]
            torch._foreach_lerp_([average for average, _ in chosen], [weight for _, weight in chosen], share)
        for a, c in zip(averaged.module.buffers(), module.buffers(), strict=True):
            a.copy_(c)
        averaged.n_averaged += 1

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swap weights and average; the average would come back rounded from weights that are coarser."""
        pairs = zip(average_model(self).module.parameters(), pl_module.parameters(), strict=True)
        self._exact = [a.data.clone() for a, c in pairs if a.dtype != c.dtype]
        super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)
        pairs = zip(average_model(self).module.parameters(), pl_module.parameters(), strict=True)
        for average, exact in zip([a for a, c in pairs if a.dtype != c.dtype], self._exact, strict=True):
            average.data.copy_(exact)
        self._exact = []

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
