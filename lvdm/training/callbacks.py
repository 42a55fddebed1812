"""What happens around the steps: the model file, the time cap, the stop at a loss that is not finite."""

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

from lvdm.types import Batch, UserError

logger = logging.getLogger(__name__)


def is_last_step(trainer: pl.Trainer) -> bool:
    """Whether training ends with the batch that was just done."""
    is_last_epoch = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= trainer.max_epochs
    return trainer.should_stop or trainer.global_step == trainer.max_steps or (is_last_epoch and trainer.is_last_batch)


class WriteModelFile(Callback):
    """Writes model.safetensors after every validation and at the end, both times with the averaged weights in place.

    It stands before the averaging callback, which gives the trained weights back when validation ends. The last validation
    leaves the writing to the end: a file of the last step is a complete one, with its latents measured.

    Args:
        write: (module, step), writes the file; called in every process, for each may hold a part of the weights.
        written: the step of the file that is there, -1 where there is none.
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
                logger.error("%s; training goes on, and the model file is written again after the next validation", error)

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
    """The end of a run that was killed between its last checkpoint and its model file: Lightning, resuming it, sees nothing to
    train and may call no `on_train_end`; twice changes nothing."""
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAveraging):
            callback.on_train_end(trainer, pl_module)
    pl_module.on_train_end()


class TimeCap(Callback):
    """Ends training after `minutes` of it, validation included; learning rates that fall reach their end by then.

    The time spent so far is kept in checkpoints, so a resumed run has the rest of it.
    """

    def __init__(self, minutes: float) -> None:
        if minutes <= 0:
            raise UserError(f"max_minutes is {minutes}; give more than 0, or leave it out")
        self.seconds = minutes * 60
        self.spent_before = self.spent = 0.0  # in earlier starts, and with this one as of the last step
        self.start = time.monotonic()

    def progress(self, steps_done: float) -> float:
        """What is done of the training in [0, 1]: by steps or by time, whichever is further."""
        return max(steps_done, self.spent / self.seconds)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = time.monotonic()
        by_steps = pl_module.progress
        pl_module.progress = lambda: self.progress(by_steps())
        trainer.should_stop = trainer.should_stop or self.progress(0.0) >= 1  # a complete run, started again

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        """The first process's time is everyone's: by clocks of their own the rates, and with them the weights, would part."""
        self.spent = trainer.strategy.broadcast(self._time())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self.progress(0.0) >= 1 and not trainer.should_stop:
            trainer.should_stop = True
            logger.info("time cap of %.1f minutes reached at step %d", self.seconds / 60, trainer.global_step)

    def state_dict(self) -> dict[str, float]:
        return {"spent": self._time()}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.spent_before = self.spent = state_dict["spent"]

    def _time(self) -> float:
        return self.spent_before + time.monotonic() - self.start


@dataclass(frozen=True)
class _Seen:
    step: int
    loss: Tensor
    indices: Tensor | Sequence[int]  # of the batch's samples


class StopAtNonFiniteLoss(Callback):
    """Saves and stops when the loss is not finite, and names the batch's samples.

    On a CPU every loss is looked at before it moves the weights. On an accelerator looking waits for the device, so it happens
    every `every` batches, and before a checkpoint is written, so that last.ckpt never holds weights that are not finite.
    """

    def __init__(self, folder: Path, *, every: int = 50) -> None:
        self.folder, self.every = folder, every
        self._indices: Tensor | Sequence[int] = ()
        self._unseen: list[_Seen] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int) -> None:
        self._indices = batch["index"]

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._unseen.append(_Seen(trainer.global_step, loss.detach(), self._indices))
        if self.is_quick_to_look(loss) or len(self._unseen) >= self.every:
            self._look(trainer)

    def is_quick_to_look(self, loss: Tensor) -> bool:
        return loss.device.type == "cpu"

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._look(trainer)

    def _look(self, trainer: pl.Trainer) -> None:
        """All processes at once: one that stopped alone would leave the others waiting for its gradients."""
        seen, self._unseen = self._unseen, []
        if not seen:
            return
        losses = trainer.strategy.all_gather(torch.stack([each.loss for each in seen])).reshape(-1, len(seen))
        is_bad = ~losses.isfinite()  # (processes, batches)
        if not bool(is_bad.any()):
            return
        first = int(is_bad.any(dim=0).int().argmax())
        bad, where = seen[first], is_bad[:, first]
        indices = trainer.strategy.all_gather(torch.as_tensor(bad.indices, device=losses.device)).reshape(len(losses), -1)
        path = self.folder / "non-finite.ckpt"
        trainer.save_checkpoint(path)
        failed = getattr(trainer.strategy.checkpoint_io, "error", None)
        saved = f"the state is saved in {path}" if failed is None else f"the state could not be saved in {path} ({failed})"
        samples = ", ".join(str(index) for index in indices[where].flatten().tolist())
        raise UserError(
            f"the loss is {float(losses[where, first][0])} at step {bad.step} on samples {samples}; {saved}; "
            "lower the learning rate, clip gradients (trainer.gradient_clip_val), or look at these samples"
        )
