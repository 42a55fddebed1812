"""The job script for SLURM, as far as one machine allows: `srun` is a script that starts two tasks with SLURM's variables."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_training import checkpoint

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "shellscripts" / "slurm_train.sbatch"
SRUN = """#!/usr/bin/env bash
[ "$SRUN_CPUS_PER_TASK" = "$SLURM_CPUS_PER_TASK" ] || { echo "a task has one core, and its workers share it"; exit 9; }
export SLURM_NTASKS=2 SLURM_NODEID=0 SLURM_NODELIST=127.0.0.1
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks+=($!); done
trap 'kill -USR1 "${tasks[@]}"' USR1
for task in "${tasks[@]}"; do while kill -0 "$task" 2>/dev/null; do wait "$task"; status=$?; done; done
exit $status
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job with two tasks on this machine."""
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n'}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    job = {"SLURM_JOB_ID": str(20_000 + os.getpid() % 10_000), "SLURM_JOB_NAME": "lvdm", "SLURM_JOB_NUM_NODES": "1"}
    own = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_NTASKS_PER_NODE": "2"}
    own["SLURM_CPUS_PER_TASK"] = "8"
    return {**os.environ, "LVDM_PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **job, **own}


def submit(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.Popen:
    copy = cwd / "spooled"  # SLURM runs a copy
    copy.write_text(JOB.read_text())
    return subprocess.Popen(
        ["bash", copy, *arguments], env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_two_tasks_train_one_run_and_go_on_after_slurms_warning(configs: dict[str, str], slurm: dict[str, str], tmp_path: Path):
    settings = [configs["joint"], "trainer.strategy=ddp", "checkpoints.every_steps=100000"]
    job = submit(*settings, "trainer.max_steps=100000", env=slurm, cwd=tmp_path)
    metrics, deadline = tmp_path / "joint" / "metrics.csv", time.monotonic() + 150
    while not metrics.exists():
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()[0][-3000:]
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    said, _ = job.communicate(timeout=150)
    assert job.returncode == 0, said[-3000:]
    assert "2 samples x 2 processes = 4 samples a step" in said
    assert (tmp_path / "requeued").read_text().split() == ["requeue", slurm["SLURM_JOB_ID"]], "once, by one of the tasks"
    first = checkpoint(tmp_path / "joint")
    assert first["callbacks"]["SaveCheckpoints"]["facts"]["samples of a batch of all processes"] == 4
    last = first["global_step"] + 2
    again = submit(*settings, f"trainer.max_steps={last}", env=slurm, cwd=tmp_path)
    said, _ = again.communicate(timeout=150)
    assert again.returncode == 0, said[-3000:]
    assert checkpoint(tmp_path / "joint")["global_step"] == last and (tmp_path / "joint" / "model.safetensors").exists()


def test_the_job_asks_slurm_for_a_warning_and_a_second_life() -> None:
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", JOB.read_text(), re.MULTILINE))
    assert asked["signal"].startswith("USR1@") and "requeue" in asked and asked["open-mode"] == "append"
    assert asked["ntasks-per-node"] == asked["gpus-per-node"], "one task a GPU"


def test_the_job_says_what_it_needs(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    for arguments, extra, words in (
        ([], {}, "a config to train"),
        (["x.yaml"], {}, "SLURM_JOB_ID"),
        (
            ["x.yaml"],
            {"SLURM_JOB_ID": "1", "SLURM_SUBMIT_DIR": str(tmp_path)},
            "is not the repository",
        ),
    ):
        job = submit(*arguments, env={**env, **extra}, cwd=tmp_path)
        said, _ = job.communicate(timeout=30)
        assert job.returncode != 0 and words in said
