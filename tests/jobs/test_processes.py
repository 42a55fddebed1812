"""Two processes on a CPU (gloo) train what one does on the doubled batch: every kind of module, by the command itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_training import (
    Config,
    adversarial_config,
    autoencoder_config,
    checkpoint,
    diffusion_config,
    write_config,
)

from lvdm.checkpoints.model_file import read_info
from lvdm.cli import train

ROOT = Path(__file__).resolve().parents[2]


def config_of(name: str, made: Path, out: Path) -> Config:
    if name == "joint":
        config = diffusion_config(made / "latents", out, made / "autoencoder" / "model.safetensors")
        config["model"]["params"]["given"] = {"target": "lvdm.training.GivenFrames", "params": {"loss": "new"}}
        return config
    config = {"autoencoder": autoencoder_config, "adversarial": adversarial_config}[name](made / "videos", out)
    for judge in config["model"]["params"].get("adversary", {"params": {"discriminators": []}})["params"]["discriminators"]:
        judge["params"]["norm"] = "none"  # a bias before a norm has no gradient but rounding, which Adam makes a step
    return config


def train_in_two(config: str, *settings: str, status: int = 0) -> str:
    """What both said to stderr."""
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), config, *settings, "trainer.devices=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stderr[-3000:]
    return done.stderr


@pytest.mark.parametrize("name", ["joint", "autoencoder", "adversarial"])
def test_two_processes_make_the_weights_of_one_with_the_doubled_batch(name: str, made: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", config_of(name, made, tmp_path))
    steps = ["trainer.max_steps=4", "trainer.val_check_interval=2", "average=0.5"]
    assert train.main([config, *steps, "--name", "one", "data.params.batch_size=4"]) == 0
    train_in_two(config, *steps, "--name", "two", "data.params.batch_size=2")
    one, two = (checkpoint(tmp_path / run) for run in ("one", "two"))
    assert one["global_step"] == two["global_step"] == 4
    for part in ("state_dict", "current_model_state"):
        assert one[part].keys() == two[part].keys()
        for tensor in one[part]:
            torch.testing.assert_close(two[part][tensor], one[part][tensor], atol=2e-5, rtol=1e-3, msg=f"{part}: {tensor}")
    first, second = (load_file(tmp_path / run / "model.safetensors") for run in ("one", "two"))
    assert first.keys() == second.keys()
    ours, theirs = (read_info(tmp_path / run / "model.safetensors") for run in ("two", "one"))
    assert (ours.scale, ours.shift) == pytest.approx((theirs.scale, theirs.shift), rel=1e-4)
    assert (tmp_path / "two" / "metrics.csv").exists()


@pytest.mark.parametrize("name", ["joint", "autoencoder"])
def test_processes_share_the_preview(name: str, made: Path, tmp_path: Path) -> None:
    """Three samples over two processes are those of one; reconstructions are of as many videos."""
    config = config_of(name, made, tmp_path)
    config["previews"] = {"num": 3, **({"steps": 2} if name == "joint" else {})}
    config["data"]["params"] |= {"val_batch_size": 4}
    written = write_config(tmp_path / "config.yaml", config)
    assert train.main([written, "--name", "one", "data.params.batch_size=4"]) == 0
    train_in_two(written, "--name", "two")
    one, two = (iio.imread(tmp_path / run / "previews" / "step=2.mp4").astype(int) for run in ("one", "two"))
    assert one.shape == two.shape and one.shape[2] == 3 * 16
    if name == "joint":
        assert abs(one - two).mean() < 2, "of 255 levels: the weights differ by rounding, mp4 by more"


def test_a_loss_that_is_not_finite_in_one_process_stops_both(made: Path, tmp_path: Path) -> None:
    """By itself the one would wait for the other at the checkpoint, and the other for the gradients of the one, for ever."""
    shutil.copytree(made / "latents", tmp_path / "latents")
    file = tmp_path / "latents" / "train" / "latents-00000.safetensors"
    latents = load_file(file)
    with safe_open(file, "pt") as shard:
        header = json.loads(shard.metadata()["lvdm"])
    latents["2.mp4"] = torch.full_like(latents["2.mp4"], torch.nan)
    index = json.loads((file.parent / "index.json").read_text())
    for described in (header, index, *index["shards"]):  # without hashes, as earlier versions wrote them
        described.pop("hash")
    header.pop("tensor_hashes")
    save_file(latents, file, {"lvdm": json.dumps(header)})
    index["shards"][0]["size"] = file.stat().st_size
    (file.parent / "index.json").write_text(json.dumps(index))
    config = diffusion_config(tmp_path / "latents", tmp_path, made / "autoencoder" / "model.safetensors")
    written = write_config(tmp_path / "config.yaml", config)
    said = train_in_two(written, "data.params.batch_size=1", "trainer.max_steps=4", "--name", "run", status=2)
    assert "the loss is nan" in said and "on samples 2; the state is saved in" in said
    saved = checkpoint(tmp_path / "run", "non-finite")
    assert all(torch.isfinite(tensor).all() for tensor in saved["state_dict"].values())
