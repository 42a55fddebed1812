"""What happens around the steps: the model file, the time cap, the stop at a loss that is not finite."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lvdm.types import Batch, UserError

logger = logging.getLogger(__name__)


class WriteModelFile(Callback):
    """Writes model.safetensors after every validation and at the end, both times with the averaged weights in place.

    It stands before the averaging callback, which gives the trained weights back when validation ends.
    """

    def __init__(self, write: Callable[[pl.LightningModule, int], None]) -> None:
        self.write = write

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking and trainer.state.fn == "fit":
            self.write(pl_module, trainer.global_step)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.write(pl_module, trainer.global_step)


class TimeCap(Callback):
    """Ends training after `minutes` of it, validation included; learning rates that fall reach their end by then.

    The time spent so far is kept in checkpoints, so a resumed run has the rest of it.
    """

    def __init__(self, minutes: float) -> None:
        if minutes <= 0:
            raise UserError(f"max_minutes is {minutes}; give more than 0, or leave it out")
        self.seconds = minutes * 60
        self.spent_before = 0.0
        self.start = time.monotonic()

    def progress(self, steps_done: float) -> float:
        """What is done of the training in [0, 1]: by steps or by time, whichever is further."""
        return max(steps_done, (self.spent_before + time.monotonic() - self.start) / self.seconds)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = time.monotonic()
        by_steps = pl_module.progress
        pl_module.progress = lambda: self.progress(by_steps())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        is_over = trainer.strategy.reduce_boolean_decision(self.progress(0.0) >= 1, all=False)
        if is_over and not trainer.should_stop:
            trainer.should_stop = True
            logger.info("time cap of %.1f minutes reached at step %d", self.seconds / 60, trainer.global_step)

    def state_dict(self) -> dict[str, float]:
        return {"spent": self.spent_before + time.monotonic() - self.start}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.spent_before = state_dict["spent"]


class StopAtNonFiniteLoss(Callback):
    """Saves and stops when the loss is not finite, and names the batch's samples.

    The loss is looked at every `every` steps on an accelerator, where looking waits for the device, and every step on a CPU.
    """

    def __init__(self, folder: Path, *, every: int = 50) -> None:
        self.folder, self.every = folder, every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss.device.type != "cpu" and trainer.global_step % self.every:
            return
        if not torch.isfinite(loss):
            path = self.folder / "non-finite.ckpt"
            trainer.save_checkpoint(path)
            indices = ", ".join(str(int(index)) for index in batch["index"])
            raise UserError(
                f"the loss is {float(loss)} at step {trainer.global_step} on samples {indices}; the state is saved in {path}; "
                "lower the learning rate, clip gradients (trainer.gradient_clip_val), or look at these samples"
            )
