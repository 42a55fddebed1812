"""Every use of Lightning's private state, in one file: look here first when a new version of Lightning breaks a run.

`CHECKED` are the versions these uses were checked with. tests/test_lightning_internals.py fails for any other version, and
checks that each private name still has the form that is relied on here.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.swa_utils import AveragedModel

logger = logging.getLogger(__name__)

CHECKED = ("2.6",)  # Lightning's major.minor


@cache
def warn_if_unchecked() -> None:
    """Log one line if the installed Lightning is not one of the checked versions."""
    if pl.__version__.rpartition(".")[0] not in CHECKED:
        checked = ", ".join(CHECKED)
        logger.warning("pytorch-lightning %s was not checked with lvdm, only %s; resuming may fail", pl.__version__, checked)


# The trainer and its loops


class HookedTrainer(pl.Trainer):
    """A trainer with one more hook: `before_first_step` runs when the checkpoint is loaded and no loop has started.

    Lightning restores the random state after this hook.
    """

    def before_first_step(self) -> None:
        """Do nothing; subclasses override this."""

    def _run_sanity_check(self) -> None:
        super()._run_sanity_check()
        self.before_first_step()


def logged_step(trainer: pl.Trainer) -> int:
    """Return the step number under which Lightning calls the loggers."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def is_validation_due(trainer: pl.Trainer) -> bool:
    """Return whether validation follows the batch that just ended."""
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def log_step_now(trainer: pl.Trainer) -> None:
    """Send the metrics of the current step to the loggers; Lightning does so after the last `on_train_batch_end`."""
    trainer._logger_connector.update_train_step_metrics()


def validate_once(trainer: pl.Trainer, *, stops: bool) -> None:
    """Validate as after a training step, and leave the loops as the checkpoint has them.

    Args:
        stops: training ends with this step, so `trainer.should_stop` is set during validation.
    """
    trainer.fit_loop.setup_data()  # evaluation counts validations by the batches of an epoch
    loop = trainer.fit_loop.epoch_loop.val_loop
    state = loop.state_dict()
    loop.restarting, trainer.validating, trainer.should_stop = False, True, stops
    try:
        loop.run()
    finally:
        trainer.training, trainer.should_stop = True, False
    loop.load_state_dict(state)
    loop._has_run = False


def correct_loop_counts(checkpoint: dict[str, Any], epochs_done: int) -> None:
    """Correct two counts of Lightning in a checkpoint, in place.

    A run resumed from the last batch of an epoch does not count the next epoch as started; resumed a second time, it would
    train that epoch twice. And the batches of a resumed run's first validation are counted twice.
    """
    fit_loop = checkpoint["loops"]["fit_loop"]
    for counts in fit_loop["epoch_progress"].values():
        counts.update(ready=epochs_done + 1, started=epochs_done + 1, processed=epochs_done, completed=epochs_done)
    validation = fit_loop["epoch_loop.val_loop.batch_progress"]["current"]
    validation.update(dict.fromkeys(validation, 0))


# Modules, strategies, callbacks


def has_trainer(module: pl.LightningModule) -> bool:
    """Return whether a trainer runs the module; asking for `module.trainer` without one is an error."""
    return module._trainer is not None


def grad_scaler(module: pl.LightningModule) -> GradScaler | None:
    """Return what scales the losses of 16-mixed precision; None for any other precision, and without a trainer."""
    plugin = module.trainer.precision_plugin if has_trainer(module) else None
    return plugin.scaler if isinstance(plugin, MixedPrecision) else None


def all_gather(module: pl.LightningModule, tensor: Tensor) -> Tensor:
    """Return the tensors of all processes, along a new first axis if there are several processes."""
    gathered = module.all_gather(tensor)
    assert isinstance(gathered, Tensor)
    return gathered


class UnwrappedDDP(DDPStrategy):
    """The processes and communication of DDP around a module that averages its gradients itself."""

    def _setup_model(self, model: nn.Module) -> Any:
        return model  # not wrapped

    def _register_ddp_hooks(self) -> None:
        pass


def is_unaveraged(callback: WeightAveraging, step: int) -> bool:
    """Return whether an optimizer step came after the last one that was asked about; checkpoints hold that one."""
    is_new = step > callback._latest_update_step
    callback._latest_update_step = step
    return is_new


def average_model(callback: WeightAveraging) -> AveragedModel:
    """Return the averaged copy of the module, which exists after `setup`."""
    assert callback._average_model is not None, "the averaging callback is not set up"
    return callback._average_model
