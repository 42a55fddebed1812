"""A run that is killed between a checkpoint and its validation makes up for it: metrics, previews, evaluations, weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_train_command import kill, model, rows, same
from tiny_training import Config, autoencoder_config, checkpoint, diffusion_config, write_config

from lvdm.cli import train
from lvdm.training.callbacks import WriteModelFile

ROOT = Path(__file__).resolve().parents[2]
# A real SIGKILL to all processes of the run: after the checkpoint of a step, within the validation that follows it, or after it.
SCRIPT = """
import os, signal, sys
from lvdm.cli import train
from lvdm.training.callbacks import StopAtNonFiniteLoss, WriteModelFile
from lvdm.training.checkpointing import SaveCheckpoints

step, where = int(os.environ["KILL_AT"]), os.environ["KILL_WHERE"]
places = {
    **{"checkpoint": (SaveCheckpoints, "save_now"), "model": (WriteModelFile, "on_validation_epoch_end")},
    "next": (StopAtNonFiniteLoss, "on_train_batch_start"),  # the validation is complete
}
owner, name = places[where]
done = getattr(owner, name)

def die(self, *arguments, **options):
    done(self, *arguments, **options)
    trainer = arguments[0]
    if trainer.global_step == step and trainer.is_global_zero:
        os.killpg(0, signal.SIGKILL)

setattr(owner, name, die)
raise SystemExit(train.main())
"""
EVALUATION = {
    **{"protocol": "lvdm-fvd2048", "set": {"runs": 1, "resolution": 16, "antialias": True}, "every": 2},
    **{"features": "random", "feature_width": 0.1, "fewer": 3},
}
EVERY_EPOCH, EVERY_SECOND_EPOCH = (f"trainer.check_val_every_n_epoch={n}" for n in (1, 2))
TWO_EPOCHS = ["trainer.max_steps=-1", "trainer.max_epochs=2"]


def train_and_die(folder: Path, arguments: list[str], step: int, where: str = "checkpoint") -> None:
    script = folder / "die.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "KILL_AT": str(step), "KILL_WHERE": where}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, start_new_session=True)
    assert done.returncode == -9, done.stderr[-3000:]


def assert_same_runs(whole: Path, killed: Path) -> None:
    assert rows(whole) == rows(killed)
    for folder in ("previews", "evaluations"):
        ours, theirs = ({path.name for path in (run / folder).glob("step=*")} for run in (killed, whole))
        assert ours == theirs, folder
    for preview in (whole / "previews").glob("*"):
        assert (killed / "previews" / preview.name).read_bytes() == preview.read_bytes(), preview.name
    ours, theirs = checkpoint(killed), checkpoint(whole)
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert same(ours[part], theirs[part]), part
    assert same(model(killed), model(whole))


def joint(made: Path, out: Path) -> Config:
    """With dropout, a worker, previews and evaluations; epochs of four batches."""
    config = diffusion_config(made / "latents", out, made / "autoencoder" / "model.safetensors")
    config["model"]["params"]["denoiser"]["params"] = {**config["model"]["params"]["denoiser"]["params"], "dropout": 0.2}
    config["data"]["params"]["num_workers"] = 1
    evaluation = {**EVALUATION, "real": str(made / "videos")}
    return {**config, "checkpoints": {"every_steps": 1}, "previews": {"num": 1}, "evaluation": evaluation}


@pytest.mark.parametrize(
    ("pace", "kills"),
    [
        ([], [(2, "checkpoint"), (4, "checkpoint"), (4, "model"), (6, "checkpoint")]),  # (4, "model"): while making up for it
        ([EVERY_EPOCH, "trainer.val_check_interval=0.5"], [(4, "checkpoint")]),
        ([EVERY_SECOND_EPOCH, "trainer.val_check_interval=1.0", *TWO_EPOCHS], [(8, "checkpoint")]),
    ],
    ids=["steps", "fractions", "epochs"],
)
def test_a_run_killed_before_a_validation_makes_up_for_it(pace, kills, made, tmp_path, monkeypatch, one_thread) -> None:
    monkeypatch.setenv("LVDM_CACHE", str(tmp_path / "cache"))
    config = [write_config(tmp_path / "config.yaml", joint(made, tmp_path)), "trainer.max_steps=6", *pace]
    assert train.main([*config, "--name", "whole"]) == 0
    for step, where in kills:
        train_and_die(tmp_path, [*config, "--name", "killed"], step, where)
        assert checkpoint(tmp_path / "killed")["global_step"] == step
    assert train.main([*config, "--name", "killed"]) == 0
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("where", ["checkpoint", "next"])
def test_the_scale_of_a_validation_is_in_no_checkpoint(where: str, made, tmp_path, one_thread) -> None:
    """Or a run that is killed after the validation, which is not repeated, would go on with the scale of the one before."""
    config = {**autoencoder_config(made / "videos", tmp_path), "checkpoints": {"every_steps": 1}}
    arguments = [write_config(tmp_path / "config.yaml", config), "trainer.max_steps=3", "trainer.val_check_interval=2"]
    assert train.main([*arguments, "--name", "whole"]) == 0
    train_and_die(tmp_path, [*arguments, "--name", "killed"], 2, where)
    assert train.main([*arguments, "--name", "killed"]) == 0
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")
    assert checkpoint(tmp_path / "whole")["current_model_state"]["codec._extra_state"].tolist() == [1.0, 0.0]


def test_two_processes_make_up_for_it_together(made, tmp_path, one_thread) -> None:
    config = {**autoencoder_config(made / "videos", tmp_path), "checkpoints": {"every_steps": 1}, "previews": {"num": 2}}
    config["data"]["params"]["val_batch_size"] = 2
    arguments = [write_config(tmp_path / "config.yaml", config), "trainer.max_steps=3", "trainer.devices=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *arguments, "--name"]
    train_and_die(tmp_path, [*arguments, "--name", "killed"], 2)
    for name in ("whole", "killed"):
        done = subprocess.run([*command, name], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


def test_a_signal_while_it_makes_up_for_it_is_obeyed_after_the_next_step(configs, tmp_path, monkeypatch) -> None:
    settings = [configs["joint"], "checkpoints.every_steps=1", "trainer.max_steps=4"]
    assert train.main([*settings, "--name", "whole"]) == 0
    with monkeypatch.context() as patch:
        kill(2, "end", patch)
        assert train.main([*settings, "--name", "killed"]) == 130
    with monkeypatch.context() as patch:
        patch.setattr(WriteModelFile, "on_validation_epoch_end", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert train.main([*settings, "--name", "killed"]) == 143
    assert checkpoint(tmp_path / "killed")["global_step"] == 3
    assert train.main([*settings, "--name", "killed"]) == 0
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")


def test_a_validation_that_was_done_is_not_repeated(configs, tmp_path, monkeypatch) -> None:
    assert train.main([configs["joint"]]) == 0
    validated = []
    monkeypatch.setattr("lvdm.training.diffusion.LatentDiffusion.validation_step", lambda *_: validated.append(1))
    assert train.main([configs["joint"], "trainer.max_steps=3"]) == 0
    assert not validated
