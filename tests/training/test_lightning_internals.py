"""The private state of Lightning that lvdm uses has the form that lightning_internals.py relies on."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import DDPStrategy

from lvdm.training import lightning_internals as internals

FILE = Path(internals.__file__).name
ROOT = Path(internals.__file__).parents[1]
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}


class Line(pl.LightningModule):
    """y = w x, with one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_this_version_of_lightning_was_checked() -> None:
    version = pl.__version__
    assert version.rpartition(".")[0] in internals.CHECKED, (
        f"pytorch-lightning {version} is installed, but {FILE} was checked with {internals.CHECKED} only; "
        "run the whole suite with it, mend what fails, then add it to CHECKED"
    )


def test_an_unchecked_version_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(pl, "__version__", "9.1.0")
    internals.warn_if_unchecked.cache_clear()
    internals.warn_if_unchecked()
    internals.warn_if_unchecked()
    internals.warn_if_unchecked.cache_clear()
    assert len(caplog.messages) == 1 and "pytorch-lightning 9.1.0 was not checked" in caplog.messages[0]


def test_the_names_that_are_overridden_are_called_by_lightning() -> None:
    for owner, name in ((pl.Trainer, "_run_sanity_check"), (DDPStrategy, "_setup_model"), (DDPStrategy, "_register_ddp_hooks")):
        assert name in vars(owner) and f"self.{name}(" in inspect.getsource(inspect.getmodule(owner)), f"{owner.__name__}.{name}"
    assert list(inspect.signature(DDPStrategy._setup_model).parameters) == ["self", "model"]


def test_the_state_that_is_read_is_there(tmp_path: Path) -> None:
    seen = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: Line, *_: object) -> None:
            internals.log_step_now(trainer)
            seen.append((internals.logged_step(trainer), internals.is_validation_due(trainer)))
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    class Hooked(internals.HookedTrainer):
        def before_first_step(self) -> None:
            seen.append("before")

    averaging, module = WeightAveraging(), Line()
    assert not internals.has_trainer(module)
    loaders = [torch.utils.data.DataLoader(torch.ones(3, 1))] * 2
    settings = {**QUIET, "max_steps": 3, "val_check_interval": 3, "enable_checkpointing": False}
    trainer = Hooked(**settings, default_root_dir=tmp_path, callbacks=[averaging, Look()])
    trainer.fit(module, *loaders)
    assert internals.has_trainer(module)
    assert seen == ["before", (0, False), (1, False), (2, True)]
    assert int(internals.average_model(averaging).n_averaged) == 3
    assert not internals.is_unaveraged(averaging, 3) and internals.is_unaveraged(averaging, 4)
    assert averaging.state_dict() == {"latest_update_step": 4} and internals.grad_scaler(module) is None
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    assert [list(counts) for counts in progress.values()] == [["ready", "completed", "started", "processed"]] * 2
    internals.correct_loop_counts(checkpoint, epochs_done=7)
    assert progress["current"] == {"ready": 8, "completed": 7, "started": 8, "processed": 7}


def test_a_validation_leaves_the_loops_as_they_were(tmp_path: Path) -> None:
    validated = []

    class Validating(Line):
        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            validated.append(self.trainer.should_stop)

    class Early(internals.HookedTrainer):
        def before_first_step(self) -> None:
            before = self.fit_loop.state_dict()
            internals.validate_once(self, stops=True)
            assert self.fit_loop.state_dict() == before and self.training and not self.should_stop

    loaders = [torch.utils.data.DataLoader(torch.ones(4, 1)) for _ in range(2)]
    trainer = Early(
        **QUIET, max_steps=4, val_check_interval=4, num_sanity_val_steps=0, enable_checkpointing=False, default_root_dir=tmp_path
    )
    trainer.fit(Validating(), *loaders)
    assert validated == [True] * 4 + [False] * 4 and trainer.global_step == 4


def test_lightnings_private_names_are_used_in_this_file_only() -> None:
    names = ("_run_sanity_check", "_batches_that_stepped", "_should_check_val_fx", "_data_fetcher", "_logger_connector")
    names += ("_has_run", "_average_model", "_setup_model", "_register_ddp_hooks", "self._trainer")
    found = [(path.name, name) for path in ROOT.rglob("*.py") for name in names if name in path.read_text() and path.name != FILE]
    assert not found
