"""Real signals to real runs: SIGKILL at any moment costs steps and no bit; SIGTERM and SIGUSR1 save first, SLURM requeues."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_train_command import same
from tiny_training import Config, adversarial_config, checkpoint, diffusion_config, write_config

from lvdm.cli import train

ROOT = Path(__file__).resolve().parents[2]
STEPS = 12


def config_of(name: str, made: Path, out: Path) -> Config:
    """With workers, flips and dropout: all that draws at random."""
    if name == "adversarial":
        config = adversarial_config(made / "videos", out)
        config["data"]["params"]["train"]["params"]["flip"] = True
    else:
        config = diffusion_config(made / "latents", out, made / "autoencoder" / "model.safetensors")
        config["model"]["params"]["denoiser"]["params"] = {**config["model"]["params"]["denoiser"]["params"], "dropout": 0.2}
    config["data"]["params"]["num_workers"] = 1
    trainer = {**config["trainer"], "max_steps": STEPS, "val_check_interval": 5}
    return {**config, "trainer": trainer, "checkpoints": {"every_steps": 1}}


def start(config: str, name: str, *settings: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), config, *settings, "--name", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_a_checkpoint_after(last: Path, before: float, run: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not (last.exists() and last.stat().st_mtime > before) and run.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint in two minutes"
        time.sleep(0.002)


@pytest.mark.parametrize("name", ["joint", "adversarial"])
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(name: str, made: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", config_of(name, made, tmp_path))
    assert train.main([config, "--name", "whole"]) == 0
    last, kills, rng = tmp_path / "killed" / "checkpoints" / "last.ckpt", 0, random.Random(0)
    for _ in range(3):
        before = last.stat().st_mtime if last.exists() else 0.0
        run = start(config, "killed")
        wait_for_a_checkpoint_after(last, before, run)
        time.sleep(rng.uniform(0, 0.15))
        kills += run.poll() is None
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
    assert kills >= 2
    assert train.main([config, "--name", "killed"]) == 0
    whole, killed = (checkpoint(tmp_path / run) for run in ("whole", "killed"))
    assert whole["global_step"] == killed["global_step"] == STEPS
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert same(whole[part], killed[part]), part


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 0)])
def test_a_run_told_to_end_saves_first_and_is_requeued_if_slurm_warned_it(
    number: int, status: int, made: Path, tmp_path: Path
) -> None:
    config = config_of("joint", made, tmp_path)
    config["checkpoints"] = {"every_steps": 100_000}
    config["trainer"]["max_steps"] = 100_000
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/requeued\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "77", "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    run = start(write_config(tmp_path / "config.yaml", config), "told", **slurm)
    metrics = tmp_path / "told" / "metrics.csv"
    wait_for_a_checkpoint_after(metrics, 0.0, run)
    os.kill(run.pid, number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == status, said[-2000:]
    assert f"{signal.Signals(number).name} at step" in said and "start again to resume" in said
    state = checkpoint(tmp_path / "told")
    assert state["global_step"] >= 1 and all(torch.isfinite(each).all() for each in state["state_dict"].values())
    requeued = tmp_path / "requeued"
    assert requeued.exists() == (number == signal.SIGUSR1)
    if requeued.exists():
        assert requeued.read_text().split() == ["requeue", "77"]
