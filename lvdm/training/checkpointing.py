"""The checkpoints of a run: last.ckpt at a fixed pace and at the end, the one before it, and as many step=N.ckpt as asked for."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO

from lvdm.files import why_not_written
from lvdm.training.callbacks import is_last_step
from lvdm.training.checkpoint_file import check_checkpoint_file, write_checkpoint
from lvdm.types import Batch, UserError

logger = logging.getLogger(__name__)


class CheckedIO(TorchCheckpointIO):
    """Writes checkpoints with their hash and checks it when they are read.

    An error in writing is kept and not raised: it comes in one process, and the others would wait for it.
    """

    error: Exception | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        self.error = None
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_checkpoint(checkpoint, Path(path))
            torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            self.error = error

    def load_checkpoint(self, path: str | Path, *arguments: Any, **named: Any) -> dict[str, Any]:
        check_checkpoint_file(Path(path))
        return super().load_checkpoint(path, *arguments, **named)


@dataclass(frozen=True)
class AtSave:
    """What Lightning's part of a checkpoint does not tell of its step."""

    validation_due: bool  # validation comes after the checkpoint
    stops: bool  # training ends with this step, such as at a time cap


class SaveCheckpoints(Callback):
    """It stands behind all that changes the state of a step, the averaging above all.

    The last step is saved when its batch is done, not when training ends: by then the averaged weights have taken the place
    of the trained ones, and the position in the epoch is lost, so that a longer run could not go on from there.
    A checkpoint that cannot be written is told of and tried again later; the run ends by it at its last step only.

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
        self.facts: dict[str, Any] = {}  # of the run, kept in its checkpoints for whoever goes on from them
        self.saved_step = 0
        self.retry_at: int | None = None  # the step at which one that could not be written is tried again
        self.at_save: AtSave | None = None  # of the checkpoint that the run is resumed from

    def state_dict(self) -> dict[str, Any]:
        return {"facts": self.facts}

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Correct two of Lightning's counts.

        It does not count an epoch as begun that a resumed run enters from the last batch of the one before: resumed once more,
        from its end, the run would train it twice. And it counts the batches of a resumed run's first validation twice.
        """
        done = trainer.current_epoch
        for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            counts.update(ready=done + 1, started=done + 1, processed=done, completed=done)
        validation = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["current"]
        validation.update(dict.fromkeys(validation, 0))
        loop = trainer.fit_loop
        is_due = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
        checkpoint["at_save"] = asdict(AtSave(is_due, trainer.should_stop))

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if "at_save" in checkpoint:  # absent in those of earlier versions
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
        """Between two steps, unless this one is saved; one that fails at the last chance ends the run."""
        if trainer.global_step == self.saved_step:
            return
        trainer._logger_connector.update_train_step_metrics()  # Lightning logs them after this, when a kill would lose them
        error = self.save(trainer)
        if error is None:
            self.saved_step, self.retry_at = trainer.global_step, None
            return
        why = why_not_written(error)
        if is_last:
            raise UserError(
                f"cannot write the checkpoint {self.folder / 'last.ckpt'}: {why}; free space, then start again to go on"
            )
        self.retry_at = trainer.global_step + max(1, self.every_steps // 10)
        logger.error(
            "cannot write the checkpoint of step %d (%s): that of step %d stays; training goes on and tries again at step %d",
            *(trainer.global_step, why, self.saved_step, self.retry_at),
        )

    def save(self, trainer: pl.Trainer) -> Exception | None:
        """Under a temporary name, then renamed: last.ckpt is always a whole one. What went wrong, in every process."""
        last, temporary = self.folder / "last.ckpt", self.folder / ".last.ckpt.part"
        error: Exception | None = None
        try:
            trainer.save_checkpoint(temporary)
            error = getattr(trainer.strategy.checkpoint_io, "error", None)
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
                board.save()  # what a resumed run will not log again
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
    """Those of a run, the newest first."""
    named = [folder / "last.ckpt", folder / "previous.ckpt"]
    return [path for path in named if path.exists()] + sorted(folder.glob("step=*.ckpt"), key=_step, reverse=True)


def _link(path: Path, name: Path) -> None:
    """The same bytes under a second name and no second copy: a checkpoint is replaced, never written into."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, name)


def _step(path: Path) -> int:
    number = path.stem.removeprefix("step=")
    return int(number) if number.isdecimal() else -1
