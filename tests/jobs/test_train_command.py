"""scripts/train.py from YAML to a run's files: killed and resumed to the bit, metrics kept, every setting passed on."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import imageio.v3 as iio
import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from tiny_training import (
    checkpoint,
)

from lvdm.checkpoints.model_file import ModelInfo, read_info
from lvdm.cli import train
from lvdm.training.autoencoder import Stepping
from lvdm.training.checkpointing import SaveCheckpoints
from lvdm.training.metrics_file import MetricsFile

MUON = "model.params.optimizer={target: lvdm.training.Muon}"
COSINE = "model.params.learning_rate={target: lvdm.training.Cosine, params: {warmup_steps: 2}}"
DROPOUT = "model.params.denoiser.params.dropout=0.2"


def kill(step: int, where: str, patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at the end of this step's batch, when its checkpoint is written, or at the start of the next one."""

    def killed(self, trainer, *arguments):
        if where == "end":
            done(self, trainer, *arguments)
        if trainer.global_step == step:
            raise KeyboardInterrupt

    done = SaveCheckpoints.on_train_batch_end
    patch.setattr(SaveCheckpoints, f"on_train_batch_{where}", killed)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same(a: object, b: object) -> bool:
    """Nested values, tensors to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def model(run: Path) -> tuple[dict[str, torch.Tensor], ModelInfo]:
    path = run / "model.safetensors"
    return load_file(path), replace(read_info(path), config={})


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# Files ---------------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_the_files_of_the_plan_and_no_others(configs, tmp_path):
    report = ["--json", str(tmp_path / "report.json"), "--name", "mine"]
    assert train.main([configs["joint"], "previews={num: 2, steps: 2}", "trainer.max_steps=4", *report]) == 0
    run = tmp_path / "mine"
    expected = {
        "config.yaml",
        "checkpoints/last.ckpt",
        "model.safetensors",
        "metrics.csv",
        "previews/step=2.mp4",
        "previews/step=4.mp4",
    }
    assert {name for name in files(run) if not name.startswith("tensorboard/")} == expected
    assert any(name.startswith("tensorboard/events") for name in files(run))
    assert iio.imread(run / "previews" / "step=4.mp4").shape == (16, 16, 32, 3), "two videos side by side"
    info = read_info(run / "model.safetensors")
    assert info.step == 4 and info.sampling["fps"] == 8 and info.config["average"] == 0.9
    assert [row["step"] for row in rows(run)] == ["0", "1", "2", "3"]
    assert rows(run)[3]["val/predict_v_mse"] and rows(run)[0]["val/predict_v_mse"] == ""
    saved = checkpoint(run)
    averaged = {
        name.removeprefix("denoiser."): tensor for name, tensor in saved["state_dict"].items() if name.startswith("denoiser.")
    }
    stored = load_file(run / "model.safetensors")
    assert all(torch.equal(tensor, stored[f"denoiser.{name}"]) for name, tensor in averaged.items())
    assert not same(saved["state_dict"], saved["current_model_state"])


def test_an_autoencoder_shows_videos_above_their_reconstructions(configs, tmp_path):
    assert train.main([configs["autoencoder"], "previews.num=2"]) == 0
    assert iio.imread(tmp_path / "autoencoder" / "previews" / "step=2.mp4").shape == (8, 32, 32, 3)
    info = read_info(tmp_path / "autoencoder" / "model.safetensors")
    assert info.kind == "autoencoder" and info.scale != 1.0 and info.shift != 0.0


# Resume --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "step", "where"),
    [
        ("joint", [], 3, "start"),
        ("joint", [MUON, COSINE, DROPOUT], 3, "end"),
        ("joint", [COSINE, "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=3"], 2, "start"),
        ("joint", ["average=0"], 4, "end"),  # the last batch of an epoch, before its validation
        ("joint", [], 6, "end"),  # the last step, before its validation
        ("autoencoder", ["trainer.check_val_every_n_epoch=1", "trainer.val_check_interval=0.5"], 4, "end"),
        ("joint", [MUON, "data.params.num_workers=1"], 4, "start"),  # and behind it
        ("autoencoder", [COSINE, "checkpoints.every_steps=2"], 3, "start"),
        ("adversarial", [COSINE], 3, "end"),
        ("adversarial", ["trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.5"], 4, "start"),
        ("adversarial", ["average=0", "checkpoints.every_steps=2"], 3, "start"),  # goes on from before the adversary's start
    ],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(name, settings, step, where, configs, tmp_path, monkeypatch):
    """Six steps in epochs of four batches, validated and logged on the way."""
    settings = [configs[name], "trainer.max_steps=6", "checkpoints.every_steps=1", *settings]
    assert train.main([*settings, "--name", "whole"]) == 0
    with monkeypatch.context() as patch:
        kill(step, where, patch)
        assert train.main([*settings, "--name", "killed"]) == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "Lightning would ignore the next Ctrl-C"
    assert checkpoint(tmp_path / "killed")["global_step"] == (2 if "checkpoints.every_steps=2" in settings else step)
    assert train.main([*settings, "--name", "killed"]) == 0
    whole, resumed = (checkpoint(tmp_path / run) for run in ("whole", "killed"))
    averaged = set() if "average=0" in settings else {"current_model_state", "averaging_state"}
    for part in {"state_dict", "optimizer_states", "lr_schedulers", *averaged}:
        assert same(whole[part], resumed[part]), part
    assert same(*(model(tmp_path / run) for run in ("whole", "killed")))
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")


def test_a_complete_run_can_be_made_longer(configs, tmp_path):
    for steps in (3, 6):
        assert train.main([configs["joint"], f"trainer.max_steps={steps}", "--name", "longer"]) == 0
    assert train.main([configs["joint"], "trainer.max_steps=6", "--name", "whole"]) == 0
    for part in ("state_dict", "current_model_state", "optimizer_states"):
        assert same(checkpoint(tmp_path / "longer")[part], checkpoint(tmp_path / "whole")[part]), part
    assert [row["step"] for row in rows(tmp_path / "longer")] == [str(step) for step in range(6)]


@pytest.mark.parametrize("end", ["trainer.max_steps=3", "max_minutes=1.0e-6"])
@pytest.mark.parametrize("name", ["joint", "autoencoder", "adversarial"])
def test_a_complete_run_started_again_stays_as_it_is_and_makes_what_is_missing(name, end, configs, tmp_path):
    run = tmp_path / name
    assert train.main([configs[name], end]) == 0
    first, contents = model(run), {file: (run / file).read_bytes() for file in ("model.safetensors", "metrics.csv")}
    assert train.main([configs[name], end]) == 0
    assert contents == {file: (run / file).read_bytes() for file in contents}
    (run / "model.safetensors").unlink()
    assert train.main([configs[name], end]) == 0
    assert same(model(run), first)


def test_a_resumed_run_takes_a_new_learning_rate(configs, tmp_path):
    slow = "model.params.optimizer={target: lvdm.training.AdamW, params: {lr: 1.0e-5}}"
    assert train.main([configs["joint"]]) == 0
    assert train.main([configs["joint"], "trainer.max_steps=3", slow, "--allow-changes"]) == 0
    assert checkpoint(tmp_path / "joint")["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-5


def test_earlier_checkpoints_are_kept_as_asked_and_one_of_them_can_be_gone_on_from(configs, tmp_path):
    every = ["checkpoints.every_steps=1", "trainer.max_steps=4"]
    assert train.main([configs["joint"], *every, "checkpoints.keep=-1"]) == 0
    folder = tmp_path / "joint" / "checkpoints"
    assert files(folder) == {"last.ckpt", "previous.ckpt", *(f"step={step}.ckpt" for step in (1, 2, 3, 4))}
    whole = checkpoint(tmp_path / "joint")
    from_two = ["--resume", str(folder / "step=2.ckpt")]
    assert train.main([configs["joint"], *every, "checkpoints.keep=2", *from_two]) == 0
    assert files(folder) == {"last.ckpt", "previous.ckpt", "step=3.ckpt", "step=4.ckpt"}
    assert same(whole["current_model_state"], checkpoint(tmp_path / "joint")["current_model_state"])
    assert [row["step"] for row in rows(tmp_path / "joint")] == ["0", "1", "2", "3"]


def test_metrics_go_on_from_the_step_that_is_logged_next(tmp_path):
    first = MetricsFile(tmp_path / "metrics.csv", resume=False)
    for step in range(0, 50, 10):
        first.log_metrics({"loss": 1.0 / (step + 1)}, step)
    first.finalize("killed")
    second = MetricsFile(tmp_path / "metrics.csv", resume=True)
    second.log_metrics({"loss": 7.0}, 20)
    second.log_metrics({"val": 8.0}, 20)
    second.save()
    found = rows(tmp_path)
    assert [(row["step"], row["val"]) for row in found] == [("0", ""), ("10", ""), ("20", "8.0")]
    assert float(found[1]["loss"]) == 1 / 11 and found[2]["loss"] == "7.0"
    MetricsFile(tmp_path / "metrics.csv", resume=False).log_metrics({"loss": 0.0}, 5)
    assert [row["step"] for row in rows(tmp_path)] == ["5"], "another run begins anew"


# Settings ------------------------------------------------------------------------------------------------------------------


def test_settings_reach_the_trainer(configs, monkeypatch):
    seen = []
    monkeypatch.setattr(pl.Trainer, "fit", lambda self, *_, **__: seen.append(self))
    settings = ["trainer.gradient_clip_val=0.5", "trainer.accumulate_grad_batches=3", "trainer.precision=bf16-mixed"]
    assert train.main([configs["joint"], *settings, "max_minutes=2", "average=0.7"]) == 0
    trainer = seen[0]
    assert (trainer.gradient_clip_val, trainer.accumulate_grad_batches, trainer.precision) == (0.5, 3, "bf16-mixed")
    assert {type(callback).__name__ for callback in trainer.callbacks} >= {"TimeCap", "ExponentialAverage", "WriteModelFile"}


def test_settings_of_steps_reach_the_module_where_two_optimizers_take_turns(configs, monkeypatch):
    seen = []
    monkeypatch.setattr(pl.Trainer, "fit", lambda self, module, **_: seen.extend([self, module]))
    settings = ["trainer.gradient_clip_val=0.5", "trainer.gradient_clip_algorithm=value", "trainer.accumulate_grad_batches=3"]
    assert train.main([configs["adversarial"], *settings, "trainer.devices=2"]) == 0
    trainer, module = seen
    assert trainer.gradient_clip_val is None and trainer.accumulate_grad_batches == 1
    assert module.stepping == Stepping(0.5, "value", 3)
    assert trainer.strategy._ddp_kwargs == {"find_unused_parameters": True}
    assert train.main([configs["adversarial"], "trainer.strategy=ddp"]) == 0
    assert seen[2].strategy._ddp_kwargs == {"find_unused_parameters": True}, "torchrun says how many, the config need not"


IS_SLOW = not os.environ.get("LVDM_SLOW") or shutil.which("c++") is None
INDUCTOR = pytest.param("joint", "inductor", marks=pytest.mark.skipif(IS_SLOW, reason="a minute; set LVDM_SLOW=1, needs c++"))


@pytest.mark.parametrize(("name", "backend"), [("joint", "aot_eager"), ("autoencoder", "aot_eager"), INDUCTOR])
def test_a_compiled_network_trains_alike(name, backend, configs, tmp_path, monkeypatch):
    """The quick backend traces the same graphs, forward and backward, and runs them without a C++ compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    pieces = ["trainer.limit_val_batches=0", "trainer.max_steps=1", "average=0"]
    for compiled in ("false", "true"):
        torch._dynamo.reset()
        assert train.main([configs[name], *pieces, f"compile={compiled}", "--name", compiled]) == 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    plain, fast = (load_file(tmp_path / run / "model.safetensors") for run in ("false", "true"))
    assert plain.keys() == fast.keys()
    for tensor in plain:
        torch.testing.assert_close(fast[tensor], plain[tensor], atol=3e-4, rtol=0, msg=tensor)
