"""How weights are stepped: the optimizer and its learning rate over time, each an object chosen in the config."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch.nn import Parameter

from lvdm.rules import integer, number, require
from lvdm.training.muon import MuonWithAdamW
from lvdm.training.seeding import Share
from lvdm.types import UserError

LARGEST_RATE = 1e6  # a float32 weight survives its square


class OptimizerSettings(Protocol):
    """What the config chooses: settings that make an optimizer once there are parameters."""

    lr: float

    def build(self, parameters: Iterable[Parameter]) -> torch.optim.Optimizer: ...


class AdamW:
    """AdamW as torch has it; `weight_decay=0` is Adam."""

    def __init__(self, lr: float = 1e-4, *, betas: Sequence[float] = (0.9, 0.999), weight_decay: float = 0.0) -> None:
        require(number(0, LARGEST_RATE), lr=lr, weight_decay=weight_decay)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"betas is {list(betas)}, expected two numbers from 0 to below 1, such as [0.9, 0.999]")
        self.lr, self.betas, self.weight_decay = lr, tuple(betas), weight_decay

    def build(self, parameters: Iterable[Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)


class Muon:
    """Muon for matrices and convolutions, AdamW (`adamw_lr`) for the rest; in equal time ahead of AdamW on small budgets."""

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
    """The learning rate after a linear warm-up."""

    def __init__(self, *, warmup_steps: int = 0) -> None:
        require(integer(0), warmup_steps=warmup_steps)
        self.warmup_steps = warmup_steps

    needs_end = False  # whether it falls towards an end of training that must be known

    def factor(self, step: int, progress: float) -> float:
        """What the learning rate is multiplied with at a step, when `progress` in [0, 1] of the training is done."""
        return min(1.0, (step + 1) / max(1, self.warmup_steps))


class Cosine(Constant):
    """Warm-up, then half a cosine down to `final` at the end of training, be it by steps or by time."""

    def __init__(self, *, warmup_steps: int = 0, final: float = 0.0) -> None:
        super().__init__(warmup_steps=warmup_steps)
        if not 0 <= final <= 1:
            raise UserError(f"the cosine's final factor is in [0, 1], not {final}")
        self.final = final

    needs_end = True

    def factor(self, step: int, progress: float) -> float:
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        return super().factor(step, progress) * (self.final + (1 - self.final) * falling)


def with_schedule(optimizer: torch.optim.Optimizer, schedule: Constant, progress: Callable[[], float]) -> dict[str, object]:
    """What Lightning's configure_optimizers returns: the learning rate follows the schedule every step."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.factor(step, progress()))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def take_settings(checkpoint: dict[str, Any], optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Put the settings of `optimizers` into a Lightning checkpoint in place, so that a resumed run has those of its config now.

    Where they are those it was saved with, not a bit changes.
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
    """A module whose weights are stepped by the config's optimizer and learning rate; its kinds say what is computed."""

    def __init__(self, optimizer: OptimizerSettings | None, learning_rate: Constant | None) -> None:
        super().__init__()
        self.optimizer, self.learning_rate = optimizer or AdamW(), learning_rate or Constant()
        self.progress: Callable[[], float] = self._progress_by_steps  # of the training, in [0, 1]; a time cap replaces it

    @property
    def share(self) -> Share:
        """Of a step's samples; all of them where there is no trainer."""
        return Share() if self._trainer is None else Share(self.trainer.global_rank, self.trainer.world_size)

    def trained_parameters(self) -> Iterable[Parameter]:
        raise NotImplementedError

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer.build(self.trained_parameters())]

    def configure_optimizers(self) -> list[dict[str, object]]:
        return [with_schedule(optimizer, self.learning_rate, lambda: self.progress()) for optimizer in self.build_optimizers()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        take_settings(checkpoint, self.build_optimizers())

    def _progress_by_steps(self) -> float:
        return self.global_step / self.trainer.estimated_stepping_batches
