"""A resumed run begins with the validation that its checkpoint still had before it.

A checkpoint is saved when its step is done, and the validation due at that step comes after it. A run that is killed in between
would never have that validation's figures, previews and evaluation.
"""

from __future__ import annotations

import pytorch_lightning as pl

from lvdm.training.checkpointing import SaveCheckpoints
from lvdm.training.metrics_file import MetricsFile


class ResumingTrainer(pl.Trainer):
    """Lightning's trainer, with the missing validation where a new run may have a sanity check.

    At this point the checkpoint is loaded and no loop has moved on, so all that depends on the position (row of metrics.csv,
    epoch, last step) is as it was when the checkpoint was saved. Lightning restores the random state afterwards.
    """

    def _run_sanity_check(self) -> None:
        super()._run_sanity_check()
        saved = next((each for each in self.callbacks if isinstance(each, SaveCheckpoints)), None)
        if saved is None or saved.at_save is None:
            return
        row = self.fit_loop.epoch_loop._batches_that_stepped
        metrics = next((board for board in self.loggers if isinstance(board, MetricsFile)), None)
        if metrics is not None:
            metrics.go_back_to(row)
        # the row is written when validation has ended, so it has the figures only if all else of it is there
        is_missing = saved.at_save.validation_due and (metrics is None or not metrics.is_validated(row))
        if self.enable_validation and self.strategy.broadcast(is_missing):
            self._validate(stops=saved.at_save.stops)

    def _validate(self, *, stops: bool) -> None:
        """As after a training step. The loops are left as the checkpoint has them."""
        self.fit_loop.setup_data()  # evaluation counts validations by the batches of an epoch
        loop = self.fit_loop.epoch_loop.val_loop
        state = loop.state_dict()
        loop.restarting, self.validating, self.should_stop = False, True, stops
        try:
            loop.run()
        finally:
            self.training, self.should_stop = True, False
        loop.load_state_dict(state)
        loop._has_run = False
