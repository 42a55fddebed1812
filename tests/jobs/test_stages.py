"""The toy's own configs at tiny size, every stage two steps long: autoencoder, latents, diffusion models, videos from them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import lvdm
from lvdm.checkpoints.model_file import read_info
from lvdm.cli import encode, sample_long, sample_short, train
from lvdm.toys.write import ToyDataset, write_dataset

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "lvdm"
CODEC = "codec.params.autoencoder.params.channels=[8,16]"
STEPS = ["trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.limit_val_batches=1"]
QUIET = ["trainer.enable_progress_bar=false", "trainer.accelerator=cpu"]
SMALL = [*STEPS, *QUIET, "data.params.batch_size=2", f"model.params.{CODEC}"]
DENOISER = ["model.params.denoiser.params.channel_mult=[1,1]", "sampling.steps=2", "sampling.gap_steps=2"]
STAGES = ("short", "predict", "infill", "joint")


def succeed(command: object, *arguments: object) -> None:
    assert command.main([str(argument) for argument in arguments]) == 0


class Home:
    """Where one chain of stages leaves its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.videos, self.latents, self.runs = path / "videos", path / "latents", path / "runs"

    def model(self, stage: str) -> Path:
        return self.runs / f"{stage}_toy" / "model.safetensors"

    def train(self, stage: str, settings: Sequence[str]) -> Path:
        if not self.model(stage).exists():
            data = [f"define.data={self.videos}"] if stage == "autoencoder" else self.given()
            succeed(train, CONFIGS / f"{stage}_toy.yaml", *data, *SMALL, f"out={self.runs}", *settings)
        return self.model(stage)

    def given(self) -> list[str]:
        return [f"define.latents={self.latents}", f"codec_weights={self.model('autoencoder')}"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Toy videos, the autoencoder and the latents."""
    made = Home(tmp_path_factory.mktemp("home"))
    write_dataset(made.videos, ToyDataset("discs", videos=4, frames=160, val=2), workers=1)
    model = made.train("autoencoder", ["previews.num=1"])
    succeed(
        encode, CONFIGS / "encode_toy.yaml", f"define.data={made.videos}", f"codec_weights={model}", CODEC, f"out={made.latents}"
    )
    return made


def test_the_autoencoder_stage_measures_and_shows_itself(home):
    info = read_info(home.model("autoencoder"))
    assert info.kind == "autoencoder" and info.step == 2 and info.scale != 1.0
    assert {path.name for path in (home.runs / "autoencoder_toy" / "previews").iterdir()} == {"step=2.mp4"}
    assert {path.name for path in home.latents.iterdir()} == {"train", "val"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_diffusion_stage_trains_validates_its_tasks_and_samples_from_its_file(stage, home, tmp_path):
    model = home.train(stage, [*DENOISER, "previews={num: 1, steps: 1}"])
    with (model.parent / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    tasks = {"short": {"short"}, "predict": {"short", "predict"}, "infill": {"infill"}, "joint": {"short", "predict", "infill"}}
    assert {name for name in last if name.startswith("val/")} == {
        f"val/{t}_{what}" for t in tasks[stage] for what in ("loss", "v_mse")
    }
    assert all(np.isfinite(float(last[name])) for name in last if name.startswith("val/"))
    settings = read_info(model).sampling
    assert settings["steps"] == 2 and settings["latent_shape"][1] == 9
    if stage != "infill":
        succeed(sample_short, model, "--num", 1, "--format", "npz", "--out", tmp_path / "short")
        assert np.load(tmp_path / "short" / "seed0-00000.npz")["video"].shape == (36, 64, 64, 3)
    assert lvdm.load(model).codec.scale == read_info(home.model("autoencoder")).scale


@pytest.mark.parametrize(("predict", "infill"), [("predict", "infill"), ("joint", "joint"), ("predict", None)])
def test_long_videos_from_these_models_have_exactly_the_frames_asked_for(predict, infill, home, tmp_path):
    options = ["--frames", 150, "--format", "npz", "--out", tmp_path / "long"]
    if infill:
        options += ["--infill", home.train(infill, DENOISER)]
    succeed(sample_long, "--predict", home.train(predict, DENOISER), *options)
    assert np.load(tmp_path / "long" / "seed0-00000.npz")["video"].shape == (150, 64, 64, 3)
