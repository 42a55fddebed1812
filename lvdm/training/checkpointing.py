"""The checkpoints of a run: last.ckpt at a fixed pace and at the end, and as many step=N.ckpt as are asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lvdm.training.callbacks import is_last_step
from lvdm.types import Batch, UserError


class SaveCheckpoints(Callback):
    """It stands behind all that changes the state of a step, the averaging above all.

    The last step is saved when its batch is done, not when training ends: by then the averaged weights have taken the place
    of the trained ones, and the position in the epoch is lost, so that a longer run could not go on from there.

    Args:
        folder: where they go.
        every_steps: last.ckpt is written this often.
        keep: how many step=N.ckpt stay beside it; -1 keeps all.
    """

    def __init__(self, folder: Path, *, every_steps: int, keep: int = 0) -> None:
        if every_steps < 1 or keep < -1:
            raise UserError(
                f"checkpoints.every_steps is {every_steps} and checkpoints.keep {keep}; give at least 1 step, and to keep 0, "
                "a number of checkpoints, or -1 for all"
            )
        self.folder, self.every_steps, self.keep = folder, every_steps, keep
        self.saved_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step > self.saved_step and (step % self.every_steps == 0 or is_last_step(trainer)):
            self.save_now(trainer)

    def save_now(self, trainer: pl.Trainer) -> None:
        """Between two steps, unless this one is saved."""
        if trainer.global_step > self.saved_step:
            self.save(trainer)
            self.saved_step = trainer.global_step

    def save(self, trainer: pl.Trainer) -> None:
        """Under a temporary name, then renamed: last.ckpt is always a whole one."""
        last, temporary = self.folder / "last.ckpt", self.folder / ".last.ckpt.part"
        try:
            trainer.save_checkpoint(temporary)
            for board in trainer.loggers:
                board.save()  # what a resumed run will not log again
            if trainer.is_global_zero:
                os.replace(temporary, last)
                self._keep(last, trainer.global_step)
        except OSError as error:
            raise UserError(f"cannot write the checkpoint {last}: {error}; free space, then start again to go on") from error
        finally:
            if trainer.is_global_zero:
                temporary.unlink(missing_ok=True)

    def _keep(self, last: Path, step: int) -> None:
        if self.keep == 0:
            return
        kept = self.folder / f"step={step}.ckpt"
        kept.unlink(missing_ok=True)
        try:
            os.link(last, kept)  # the same bytes, no second copy: last.ckpt is replaced, never written into
        except OSError:  # a file system without hard links
            shutil.copyfile(last, kept)
        if self.keep > 0:
            for old in sorted(self.folder.glob("step=*.ckpt"), key=_step)[: -self.keep]:
                old.unlink()


def _step(path: Path) -> int:
    number = path.stem.removeprefix("step=")
    return int(number) if number.isdecimal() else -1
