"""The checkpoints of a run: last.ckpt at regular steps and at the end, the one before it, and some step=N.ckpt."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lvdm.files import why_not_written
from lvdm.training.callbacks import is_last_step
from lvdm.training.checkpoint_file import write_error
from lvdm.training.lightning_internals import correct_loop_counts, is_validation_due, log_step_now, warn_if_unchecked
from lvdm.types import Batch, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AtSave:
    """Facts about a checkpoint's step that Lightning does not store."""

    validation_due: bool  # validation comes after the checkpoint
    stops: bool  # training ends with this step, such as at a time cap


class SaveCheckpoints(Callback):
    """Saves checkpoints; it comes after every callback that changes the state of a step, such as the averaging.

    The last step is saved when its batch is done, not when training ends. At the end of training the averaged weights have
    replaced the trained ones, and the position in the epoch is lost, so a longer run could not be resumed from there.
    A checkpoint that cannot be written is logged and tried again later. Only at its last step does the run fail.

    Args:
        folder: the folder of the checkpoints.
        every_steps: last.ckpt is written every so many steps.
        keep: number of step=N.ckpt files to keep; -1 keeps all.
    """

    def __init__(self, folder: Path, *, every_steps: int, keep: int = 0) -> None:
        if every_steps < 1 or keep < -1:
            raise UserError(
                f"checkpoints.every_steps is {every_steps} and checkpoints.keep {keep}; give 1 step or more, and for keep 0, "
                "a number of checkpoints, or -1 for all"
            )
        self.folder, self.every_steps, self.keep = folder, every_steps, keep
        self.facts: dict[str, Any] = {}  # about the run, compared when it is resumed
        self.saved_step = 0
        self.retry_at: int | None = None  # the step at which a failed write is tried again
        self.at_save: AtSave | None = None  # from the checkpoint that the run is resumed from

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        warn_if_unchecked()

    def state_dict(self) -> dict[str, Any]:
        return {"facts": self.facts}

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        correct_loop_counts(checkpoint, epochs_done=trainer.current_epoch)
        checkpoint["at_save"] = asdict(AtSave(is_validation_due(trainer), trainer.should_stop))

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.saved_step = checkpoint["global_step"]
        if "at_save" in checkpoint:  # earlier versions did not write it
            self.at_save = AtSave(**checkpoint["at_save"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step, is_last = trainer.global_step, is_last_step(trainer)
        is_due = step % self.every_steps == 0 or (self.retry_at is not None and step >= self.retry_at)
        if step > self.saved_step and (is_due or is_last):
            self.save_now(trainer, is_last=is_last)

    def save_now(self, trainer: pl.Trainer, *, is_last: bool) -> None:
        """Save between two steps, unless this step is saved already; a failure raises only if `is_last`."""
        if trainer.global_step == self.saved_step:
            return
        log_step_now(trainer)  # or a kill after this checkpoint would lose the step's metrics
        error = self.save(trainer)
        if error is None:
            self.saved_step, self.retry_at = trainer.global_step, None
            return
        why = why_not_written(error)
        if is_last:
            raise UserError(
                f"cannot write the checkpoint {self.folder / 'last.ckpt'}: {why}; free space, then start again to resume"
            )
        self.retry_at = trainer.global_step + max(1, self.every_steps // 10)
        logger.error(
            "cannot write the checkpoint of step %d (%s); step %d stays saved, and training continues and tries again at step %d",
            *(trainer.global_step, why, self.saved_step, self.retry_at),
        )

    def save(self, trainer: pl.Trainer) -> Exception | None:
        """Save under a temporary name and rename, so that last.ckpt is always complete; return the error in every process."""
        last, temporary = self.folder / "last.ckpt", self.folder / ".last.ckpt.part"
        error: Exception | None = None
        try:
            trainer.save_checkpoint(temporary)
            error = write_error(trainer)
            if error is None and trainer.is_global_zero:
                self._rename(temporary, last, trainer.global_step)
        except OSError as failed:
            error = failed
        finally:
            if trainer.is_global_zero:
                temporary.unlink(missing_ok=True)
        error = trainer.strategy.broadcast(error)
        if error is None:
            for board in trainer.loggers:
                board.save()  # a resumed run does not log these steps again
        return error

    def _rename(self, temporary: Path, last: Path, step: int) -> None:
        if last.exists():
            _link(last, self.folder / "previous.ckpt")
        os.replace(temporary, last)
        if self.keep == 0:
            return
        _link(last, self.folder / f"step={step}.ckpt")
        if self.keep > 0:
            for old in sorted(self.folder.glob("step=*.ckpt"), key=_step)[: -self.keep]:
                old.unlink()


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first."""
    named = [folder / "last.ckpt", folder / "previous.ckpt"]
    return [path for path in named if path.exists()] + sorted(folder.glob("step=*.ckpt"), key=_step, reverse=True)


def _link(path: Path, name: Path) -> None:
    """Give a file a second name without copying; this is safe because checkpoints are replaced, never modified."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, name)


def _step(path: Path) -> int:
    number = path.stem.removeprefix("step=")
    return int(number) if number.isdecimal() else -1
