"""A resumed run starts with the validation that was due right after its checkpoint, if that validation is missing.

A checkpoint is saved when its step is done, before the validation that is due at that step. Without this file, a run that was
killed in between would never have the metrics, previews and evaluation of that validation.
"""

from __future__ import annotations

from lvdm.training.checkpointing import SaveCheckpoints
from lvdm.training.lightning_internals import HookedTrainer, logged_step, validate_once
from lvdm.training.metrics_file import MetricsFile


class ResumingTrainer(HookedTrainer):
    """A trainer that runs a missing validation before the first step.

    At this point everything that depends on the step (row of metrics.csv, epoch, last step) is as it was when the checkpoint
    was saved.
    """

    def before_first_step(self) -> None:
        callbacks = self.callbacks  # type: ignore[attr-defined]  # a connector sets it
        saved = next((each for each in callbacks if isinstance(each, SaveCheckpoints)), None)
        if saved is None or saved.at_save is None:
            return
        row = logged_step(self)
        metrics = next((board for board in self.loggers if isinstance(board, MetricsFile)), None)
        if metrics is not None:
            metrics.go_back_to(row)
        # validation writes this row last, so a row with validation metrics means a complete validation
        is_missing = saved.at_save.validation_due and (metrics is None or not metrics.is_validated(row))
        if self.enable_validation and self.strategy.broadcast(is_missing):
            validate_once(self, stops=saved.at_save.stops)
