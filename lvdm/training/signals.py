"""A run saves before it ends at SIGTERM, and at SIGUSR1, which SLURM sends before a job's end; that job is requeued."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lvdm.training.checkpointing import SaveCheckpoints
from lvdm.training.lightning_internals import is_validation_due
from lvdm.types import Batch

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StoppedBySignal(Exception):
    """A signal ended training, and its state is saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"{signal.Signals(number).name} at step {step}: the state is saved; start again to resume")
        self.number = number


class SaveOnSignal(Callback):
    """Saves when the current step is done, and ends training; it comes last of all callbacks, because it ends the step.

    Lightning's own handler ends training without saving if there is no SLURM, and saves another file if there is.

    Args:
        checkpoints: the callback that saves.
        validates_long: validation is so long that it may have to be left; a checkpoint is then written before each.
    """

    def __init__(self, checkpoints: SaveCheckpoints, *, validates_long: bool = False) -> None:
        self.checkpoints, self.validates_long = checkpoints, validates_long
        self._received = 0
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = trainer.global_step
        self._listen()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen()  # a resumed run may start with a validation

    def _listen(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._receive)  # at the end Lightning restores the handlers from before its own

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        is_between_steps, self._step = trainer.global_step > self._step, trainer.global_step
        if is_between_steps and self._has_come(trainer):
            self.checkpoints.save_now(trainer, is_last=True)
            self._stop(trainer)
        if is_between_steps and self.validates_long and is_validation_due(trainer):
            self.checkpoints.save_now(trainer, is_last=False)

    def leave_validation(self, trainer: pl.Trainer) -> None:
        """End training within a validation if a signal came; a resumed run repeats the validation. All processes call it."""
        if self.checkpoints.saved_step == trainer.global_step and self._has_come(trainer):
            self._stop(trainer)

    def _has_come(self, trainer: pl.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._received > 0, all=False)

    def _stop(self, trainer: pl.Trainer) -> None:
        number = self._received or signal.SIGTERM
        if number == signal.SIGUSR1 and trainer.is_global_zero:
            requeue()
        raise StoppedBySignal(number, trainer.global_step)


def requeue() -> None:
    """Requeue this SLURM job; do nothing outside SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    if os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is None:
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        logger.info("job %s is requeued", job)
    except (OSError, subprocess.CalledProcessError) as error:
        why = error.stderr if isinstance(error, subprocess.CalledProcessError) and error.stderr else error
        logger.warning("job %s could not be requeued (%s); submit it again to resume from its checkpoint", job, why)
