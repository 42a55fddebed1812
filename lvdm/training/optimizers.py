"""Optimizers and learning-rate schedules, each an object chosen in the config, and the module that uses them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch.nn import Parameter

from lvdm.rules import integer, number, require
from lvdm.training.lightning_internals import has_trainer
from lvdm.training.muon import MuonWithAdamW, mark_tables
from lvdm.training.seeding import Share
from lvdm.types import UserError, check_contract

LARGEST_RATE = 1e6  # its square times a weight is finite in float32


class OptimizerSettings(Protocol):
    """The settings of an optimizer, which `build` creates once there are parameters; write your own with these two members."""

    lr: float

    def build(self, parameters: Iterable[Parameter]) -> torch.optim.Optimizer: ...


class LearningRate(Protocol):
    """A learning-rate schedule; write your own with these two members.

    `needs_end` says whether the schedule needs to know the end of training. `factor` is what the optimizer's learning rate is
    multiplied by at a step, when the fraction `progress` of the training is done.
    """

    needs_end: bool

    def factor(self, step: int, progress: float) -> float: ...


class AdamW:
    """torch's AdamW; with `weight_decay=0` it is Adam."""

    def __init__(self, lr: float = 1e-4, *, betas: Sequence[float] = (0.9, 0.999), weight_decay: float = 0.0) -> None:
        require(number(0, LARGEST_RATE), lr=lr, weight_decay=weight_decay)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"betas is {list(betas)}, expected two numbers from 0 to below 1, such as [0.9, 0.999]")
        self.lr, self.betas, self.weight_decay = lr, (betas[0], betas[1]), weight_decay

    def build(self, parameters: Iterable[Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)


class Muon:
    """Muon for matrices and convolutions, AdamW (`adamw_lr`) for embeddings and the rest.

    It is better than AdamW in equal time on small budgets.
    """

    def __init__(
        self, lr: float = 3e-3, *, adamw_lr: float = 1e-3, momentum: float = 0.95, steps: int = 5, weight_decay: float = 0.0
    ) -> None:
        require(number(0, LARGEST_RATE), lr=lr, adamw_lr=adamw_lr, weight_decay=weight_decay)
        require(number(0, 0.9999), momentum=momentum)  # 0.95 is usual
        require(integer(1, 100), steps=steps)  # 5 is usual
        self.lr, self.adamw_lr, self.momentum, self.steps, self.weight_decay = lr, adamw_lr, momentum, steps, weight_decay

    def build(self, parameters: Iterable[Parameter]) -> torch.optim.Optimizer:
        return MuonWithAdamW(
            parameters,
            lr=self.lr,
            adamw_lr=self.adamw_lr,
            momentum=self.momentum,
            steps=self.steps,
            weight_decay=self.weight_decay,
        )


class Constant:
    """A constant learning rate after a linear warm-up."""

    needs_end = False

    def __init__(self, *, warmup_steps: int = 0) -> None:
        require(integer(0), warmup_steps=warmup_steps)
        self.warmup_steps = warmup_steps

    def factor(self, step: int, progress: float) -> float:
        """Return what the learning rate is multiplied by at a step."""
        return min(1.0, (step + 1) / max(1, self.warmup_steps))


class Cosine(Constant):
    """A linear warm-up, then half a cosine down to `final` at the end of training, by steps or by time."""

    needs_end = True

    def __init__(self, *, warmup_steps: int = 0, final: float = 0.0) -> None:
        super().__init__(warmup_steps=warmup_steps)
        if not 0 <= final <= 1:
            raise UserError(f"final is {final}, expected a factor from 0 to 1")
        self.final = final

    def factor(self, step: int, progress: float) -> float:
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        return super().factor(step, progress) * (self.final + (1 - self.final) * falling)


def with_schedule(
    optimizer: torch.optim.Optimizer, schedule: LearningRate, progress: Callable[[], float]
) -> OptimizerLRSchedulerConfig:
    """Return an item of Lightning's `configure_optimizers`: the learning rate follows the schedule every step."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.factor(step, progress()))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def take_settings(checkpoint: dict[str, Any], optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Put the settings of `optimizers` into a Lightning checkpoint, in place, so that a resumed run follows its current config.

    If the settings did not change, the checkpoint stays equal to the bit.
    """
    states, schedulers = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    for state, scheduler, optimizer in zip(states, schedulers, optimizers, strict=True):
        for group, now in zip(state["param_groups"], optimizer.param_groups, strict=True):
            before = group.get("initial_lr", now["lr"])
            if before != now["lr"]:
                group["lr"] = group["lr"] / before * now["lr"] if before else now["lr"]
            group.update({name: value for name, value in now.items() if name not in ("params", "lr")}, initial_lr=now["lr"])
        scheduler["base_lrs"] = [group["initial_lr"] for group in state["param_groups"]]


class SteppedModule(pl.LightningModule):
    """A Lightning module with the config's optimizer and learning rate; subclasses compute the loss."""

    def __init__(self, optimizer: OptimizerSettings | None, learning_rate: LearningRate | None) -> None:
        super().__init__()
        self.optimizer, self.learning_rate = optimizer or AdamW(), learning_rate or Constant()
        check_contract(self.optimizer, OptimizerSettings)
        check_contract(self.learning_rate, LearningRate)
        self.time_progress = 0.0  # the fraction of a time cap that is spent; the cap sets it

    @property
    def share(self) -> Share:
        """Return this process's share of a step's samples; all of them without a trainer."""
        return Share(self.trainer.global_rank, self.trainer.world_size) if has_trainer(self) else Share()

    def trained_parameters(self) -> Iterable[Parameter]:
        raise NotImplementedError

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        mark_tables(self)
        return [self.optimizer.build(self.trained_parameters())]

    def configure_optimizers(self) -> list[OptimizerLRSchedulerConfig]:
        return [with_schedule(optimizer, self.learning_rate, self.progress) for optimizer in self.build_optimizers()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        take_settings(checkpoint, self.build_optimizers())

    def progress(self) -> float:
        """Return the fraction of the training that is done, by steps or by time, whichever is larger."""
        return max(self.global_step / self.num_steps(), self.time_progress)

    def num_steps(self) -> float:
        """Return the number of steps of the whole training; it may be infinite."""
        return self.trainer.estimated_stepping_batches
