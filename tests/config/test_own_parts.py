"""A user's own loss, optimizer, learning-rate schedule and callback, in one module outside lvdm, from YAML and from Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_train_command import rows
from tiny_training import CODEC, checkpoint

from lvdm.cli import train
from lvdm.config import instantiate
from lvdm.training import AutoencoderTraining
from lvdm.types import UserError

MINE = '''
import pytorch_lightning as pl
import torch
from torch import nn

from lvdm.training import ReconstructionParts


class Charbonnier(nn.Module):
    """A reconstruction loss: the mean of sqrt((x - y)^2 + eps^2)."""

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, video, reconstruction, posterior, generator=None):
        distance = ((video - reconstruction).square() + self.eps**2).sqrt().mean()
        return ReconstructionParts(distance, {"charbonnier": distance})


class ScaledError(nn.Module):
    """A diffusion loss, per element, with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, prediction, target):
        return (prediction - target).square() * torch.exp(-self.scale) + self.scale


class Momentum:
    """SGD with momentum."""

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def build(self, parameters):
        return torch.optim.SGD(parameters, lr=self.lr, momentum=0.9)


class Halving:
    """Half the rate at every step."""

    needs_end = False

    def factor(self, step, progress):
        return 0.5**step


class Steps(pl.Callback):
    """Writes each step's number into a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with open(self.path, "a") as file:
            file.write(f"{trainer.global_step} {trainer.optimizers[0].param_groups[0]['lr']}\\n")


class Needy:
    """Neither an optimizer nor a schedule."""
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A module of the user's own, importable, and the flag that allows it."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield ["--allow-module", "mine"]
    sys.modules.pop("mine", None)


def test_a_command_finds_a_module_in_the_working_directory(
    configs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine_here.py").write_text(MINE)
    monkeypatch.chdir(tmp_path / "code")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    arguments = [configs["autoencoder"], "model.params.loss={target: mine_here.Charbonnier, params: {eps: 0.01}}", "--dry-run"]
    try:
        assert train.main(arguments) == 2 and train.main([*arguments, "--allow-module", "mine_here"]) == 0
    finally:
        sys.modules.pop("mine_here", None)


def node(name: str, **params: object) -> str:
    return json.dumps({"target": f"mine.{name}", "params": params})


def test_the_autoencoders_own_loss_from_yaml(mine: list[str], configs: dict[str, str], tmp_path: Path) -> None:
    assert train.main([configs["autoencoder"], f"model.params.loss={node('Charbonnier', eps=0.01)}", *mine]) == 0
    logged = rows(tmp_path / "autoencoder")
    assert all(row["train/charbonnier"] == row["train/loss"] != "" for row in logged if row.get("train/loss"))


def test_diffusions_own_loss_optimizer_schedule_and_callback_from_yaml(
    mine: list[str], configs: dict[str, str], tmp_path: Path
) -> None:
    steps = tmp_path / "steps.txt"
    parts = [f"loss={node('ScaledError')}", f"optimizer={node('Momentum', lr=0.01)}", f"learning_rate={node('Halving')}"]
    callbacks = f"trainer.callbacks=[{node('Steps', path=str(steps))}]"
    arguments = [configs["joint"], *(f"model.params.{part}" for part in parts), callbacks, *mine]
    assert train.main(arguments) == 0
    assert steps.read_text().splitlines() == ["1 0.005", "2 0.0025"]
    saved = checkpoint(tmp_path / "joint")
    assert "momentum_buffer" in saved["optimizer_states"][0]["state"][0]
    assert float(saved["current_model_state"]["elementwise_loss.scale"]) != 0, "the loss's own parameter is trained"
    assert train.main([*arguments, "trainer.max_steps=3"]) == 0, "a run with them is resumed"
    assert steps.read_text().splitlines()[2:] == ["3 0.00125"]


def test_a_progress_bar_of_the_config_replaces_ours(configs: dict[str, str]) -> None:
    bar = "trainer.callbacks=[{target: pytorch_lightning.callbacks.TQDMProgressBar, params: {refresh_rate: 1}}]"
    assert train.main([configs["joint"], bar, "trainer.enable_progress_bar=true"]) == 0


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.params.optimizer={target: mine.Needy}", "expected a target of kind OptimizerSettings"),
        ("model.params.learning_rate={target: mine.Needy}", "expected a target of kind LearningRate"),
        ("trainer.callbacks=[{target: mine.Needy}]", "expected a target of kind Callback"),
        ("model.params.loss={target: torch.nn.MSELoss}", "return a value per element"),
    ],
)
def test_a_part_that_does_not_fit_is_named(
    setting: str, said: str, mine: list[str], configs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([configs["joint"], setting, *mine]) == 2
    assert said in capsys.readouterr().err


def test_own_parts_from_python(mine: list[str]) -> None:
    import mine as own

    module = AutoencoderTraining(
        codec=instantiate(CODEC), loss=own.Charbonnier(), optimizer=own.Momentum(0.1), learning_rate=own.Halving()
    )
    assert isinstance(module.build_optimizers()[0], torch.optim.SGD)
    with pytest.raises(UserError, match="Needy is no OptimizerSettings: it lacks lr, build"):
        AutoencoderTraining(codec=instantiate(CODEC), optimizer=own.Needy())
