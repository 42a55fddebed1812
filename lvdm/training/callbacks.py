"""Callbacks around the training steps: the model file, the time cap, and the stop at a non-finite loss."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor
from torch.optim import Optimizer

from lvdm.training.checkpoint_file import write_error
from lvdm.training.optimizers import SteppedModule
from lvdm.types import Batch, UserError

logger = logging.getLogger(__name__)


def is_last_step(trainer: pl.Trainer) -> bool:
    """Return whether training ends with the batch that just ended."""
    is_last_epoch = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= trainer.max_epochs
    return trainer.should_stop or trainer.global_step == trainer.max_steps or (is_last_epoch and trainer.is_last_batch)


class WriteModelFile(Callback):
    """Writes model.safetensors, with the averaged weights, after every validation and at the end of training.

    It comes before the averaging callback, which puts the trained weights back when validation ends. After the last validation
    nothing is written: the file at the end of training has the measured scale of the latents too.

    Args:
        write: writes the file, given (module, step); called in every process, because each may hold a shard of the weights.
        written: returns the step of the existing file, -1 if there is none.
    """

    def __init__(self, write: Callable[[pl.LightningModule, int], None], *, written: Callable[[], int]) -> None:
        self.write, self.written = write, written
        self.has_trained = False

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        is_due = trainer.state.fn == "fit" and not trainer.sanity_checking and not is_last_step(trainer)
        if is_due:
            try:
                self.write(pl_module, trainer.global_step)
            except UserError as error:
                logger.error("%s; training continues, and the model file is written after the next validation", error)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.has_trained = True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.has_trained:
            if self.written() >= trainer.global_step:
                return
            _end_training(trainer, pl_module)
        self.write(pl_module, trainer.global_step)


def _end_training(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """End a run that was killed between its last checkpoint and its model file.

    When Lightning resumes it, there is nothing to train and `on_train_end` may not be called. A second call changes nothing.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # a connector sets it
        if isinstance(callback, WeightAveraging):
            callback.on_train_end(trainer, pl_module)
    pl_module.on_train_end()


class TimeCap(Callback):
    """Ends training after `minutes`, validation included; decaying learning rates reach their end by then.

    Checkpoints hold the time spent so far, so a resumed run has the remaining time.
    """

    def __init__(self, minutes: float) -> None:
        if minutes <= 0:
            raise UserError(f"max_minutes is {minutes}; give more than 0, or leave it out")
        self.seconds = minutes * 60
        self.spent_before = self.spent = 0.0  # seconds in earlier starts, and in all starts as of the last step
        self.start = time.monotonic()

    @property
    def progress(self) -> float:
        """The fraction of the time that is spent."""
        return self.spent / self.seconds

    def _show_progress(self, module: pl.LightningModule) -> None:
        assert isinstance(module, SteppedModule)
        module.time_progress = self.progress

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = time.monotonic()
        self._show_progress(pl_module)
        trainer.should_stop = trainer.should_stop or self.progress >= 1  # a complete run, started again

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        """Use the first process's time in all: with different clocks the learning rates and weights would differ."""
        self.spent = trainer.strategy.broadcast(self._time())
        self._show_progress(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self.progress >= 1 and not trainer.should_stop:
            trainer.should_stop = True
            logger.info("time cap of %.1f minutes reached at step %d", self.seconds / 60, trainer.global_step)

    def state_dict(self) -> dict[str, float]:
        return {"spent": self._time()}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.spent_before = self.spent = state_dict["spent"]

    def _time(self) -> float:
        return self.spent_before + time.monotonic() - self.start


@dataclass(frozen=True)
class _BatchLoss:
    step: int
    loss: Tensor
    indices: Tensor | Sequence[int]  # the batch's samples


class StopAtNonFiniteLoss(Callback):
    """Saves and stops when the loss is not finite, and names the batch's samples.

    On a CPU every loss is checked before it changes the weights. On an accelerator a check synchronises with the device, so it
    runs every `every` batches, and before a checkpoint is written: last.ckpt never holds weights that are not finite.
    """

    def __init__(self, folder: Path, *, every: int = 50) -> None:
        self.folder, self.every = folder, every
        self._indices: Tensor | Sequence[int] = ()
        self._unchecked: list[_BatchLoss] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int) -> None:
        self._indices = batch["index"]

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._unchecked.append(_BatchLoss(trainer.global_step, loss.detach(), self._indices))
        if self.is_cheap_to_check(loss) or len(self._unchecked) >= self.every:
            self._check(trainer)

    def is_cheap_to_check(self, loss: Tensor) -> bool:
        return loss.device.type == "cpu"

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(trainer)

    def _check(self, trainer: pl.Trainer) -> None:
        """Check in all processes at once: if one stopped alone, the others would wait for its gradients."""
        batches, self._unchecked = self._unchecked, []
        if not batches:
            return
        losses = trainer.strategy.all_gather(torch.stack([each.loss for each in batches])).reshape(-1, len(batches))
        is_bad = ~losses.isfinite()  # (processes, batches)
        if not bool(is_bad.any()):
            return
        first = int(is_bad.any(dim=0).int().argmax())
        bad, where = batches[first], is_bad[:, first]
        indices = trainer.strategy.all_gather(torch.as_tensor(bad.indices, device=losses.device)).reshape(len(losses), -1)
        path = self.folder / "non-finite.ckpt"
        trainer.save_checkpoint(path)
        failed = write_error(trainer)
        saved = f"the state is saved in {path}" if failed is None else f"the state could not be saved in {path} ({failed})"
        samples = ", ".join(str(index) for index in indices[where].flatten().tolist())
        raise UserError(
            f"the loss is {float(losses[where, first][0])} at step {bad.step} on samples {samples}; {saved}; "
            "lower the learning rate, clip gradients (trainer.gradient_clip_val), or look at these samples"
        )
