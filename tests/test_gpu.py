"""What a GPU makes is what the CPU makes: coded latents, sampled videos, gradients; training, compiled too, runs there.

Convolutions and products in float32 are exact here; the TF32 that PyTorch uses by default is looser than these bounds.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import CODEC, diffusion_config, make_latents, video_set, write_config, write_videos
from torch import nn

import lvdm
from lvdm.checkpoints.model_file import read_info
from lvdm.cli import benchmark, encode, sample_long, sample_short, train
from lvdm.config import instantiate
from lvdm.data import LatentClips
from lvdm.evaluation.features import extract
from lvdm.models.features import make_extractor
from lvdm.sampling.long_pipeline import sample_long as sample_frames
from lvdm.training.averaging import ExponentialAverage
from lvdm.training.diffusion import LatentDiffusion, LossInputs
from lvdm.types import Condition

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


def test_batches_and_padding_change_no_feature() -> None:
    network = make_extractor("random-i3d", width=1 / 8, device="cuda")
    video = torch.randint(0, 256, (11, 16, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = {size: extract(video.split(size), network, total=11, what="clips") for size in (1, 3, 11)}
    np.testing.assert_array_equal(rows[1], rows[11])
    np.testing.assert_array_equal(rows[3], rows[11])
    alone = extract([video[:1]], network, total=1, what="clips")
    np.testing.assert_array_equal(alone, rows[11][:1])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, their latents, and a joint model trained on the GPU: `joint/model.safetensors`."""
    folder = tmp_path_factory.mktemp("gpu")
    make_latents(write_videos(folder / "videos"), folder)
    run_training(folder, "joint", "trainer.max_steps=4", "trainer.val_check_interval=4", "sampling.key_stride=3")
    return folder


def run_training(made: Path, name: str, *overrides: str) -> Path:
    config = diffusion_config(made / "latents", made, made / "autoencoder" / "model.safetensors")
    written = write_config(made / f"{name}.yaml", config)
    assert train.main([written, "trainer.accelerator=gpu", "trainer.devices=1", *overrides]) == 0
    return made / name


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double().cpu() - expected.double()).norm() / expected.double().norm())


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.cpu().flatten() for tensor in tensors])


def gradients(module: LatentDiffusion, draw: LossInputs) -> list[torch.Tensor]:
    module.zero_grad()
    module.loss(draw).loss.backward()
    return [parameter.grad for parameter in module.denoiser.parameters() if parameter.grad is not None]


def on_gpu(values: LossInputs | Condition) -> LossInputs | Condition:
    """A dataclass of tensors and of others like it."""
    moved = {f.name: getattr(values, f.name) for f in fields(values)}
    return replace(values, **{name: each.cuda() if isinstance(each, torch.Tensor) else each for name, each in moved.items()})


def test_gradients_of_training_are_the_cpus(made: Path) -> None:
    module = instantiate(diffusion_config(made / "latents", made, made)["model"])
    for parameter in module.denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    clips = LatentClips(made / "latents" / "train", num_latents=7)
    batch = torch.utils.data.default_collate([clips[0], clips[1]])
    draw = module.draw(batch, list(module.tasks.values()), torch.Generator().manual_seed(0))
    expected = [gradient.clone() for gradient in gradients(module, draw)]
    got = gradients(module.cuda(), replace(on_gpu(draw), cond=on_gpu(draw.cond)))
    assert len(got) == len(expected) > 10
    assert relative(flat(got), flat(expected)) < 1e-4


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_resumes_to_the_bit(made: Path, precision: str) -> None:
    """Four steps in one go, and two and two: the losses of the last two are the same."""
    with torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False):
        steps = [f"trainer.precision={precision}", "trainer.val_check_interval=2"]
        whole = losses(run_training(made, f"whole-{precision}", *steps, "trainer.max_steps=4"))
        run_training(made, f"parts-{precision}", *steps, "trainer.max_steps=2")
        parts = losses(run_training(made, f"parts-{precision}", *steps, "trainer.max_steps=4"))
    assert parts == pytest.approx(whole, rel=1e-5), "bit for bit is promised on a CPU; a GPU adds up in an order of its own"
    assert read_info(made / f"parts-{precision}" / "model.safetensors").step == 4


def test_the_average_lies_where_the_weights_are(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning makes it before the weights leave the CPU."""
    seen = []
    monkeypatch.setattr(ExponentialAverage, "on_train_end", lambda self, *_: seen.append(self._average_model))
    run_training(made, "average", "trainer.max_steps=2")
    assert {parameter.device.type for parameter in seen[0].parameters()} == {"cuda"}
    assert seen[0].n_averaged.device.type == "cpu", "to ask a GPU for it at every step would wait for the step"


def test_compiled_training_has_the_same_losses(made: Path) -> None:
    steps = ["trainer.max_steps=3", "trainer.val_check_interval=3"]
    plain = losses(run_training(made, "plain", *steps))
    compiled = losses(run_training(made, "compiled", *steps, "compile=true"))
    assert compiled == pytest.approx(plain, rel=1e-3)


def test_muon_in_bf16_trains(made: Path) -> None:
    run = run_training(
        made,
        "muon",
        "trainer.precision=bf16-mixed",
        "trainer.max_steps=30",
        "trainer.val_check_interval=15",
        "model.params.optimizer={target: lvdm.training.Muon, params: {lr: 0.01}}",
    )
    assert np.mean(losses(run)[-5:]) < np.mean(losses(run)[:5])


def test_latents_encoded_are_the_cpus(made: Path) -> None:
    config = {"codec": CODEC, "data": {"train": video_set(made / "videos")}, "out": str(made / "latents-gpu")}
    written = write_config(made / "encode-gpu.yaml", config)
    weights = f"codec_weights={made / 'autoencoder' / 'model.safetensors'}"
    assert encode.main([written, weights, "device=cuda"]) == 0
    ours, theirs = (LatentClips(made / where / "train", num_latents=7, random_clip=False) for where in ("latents-gpu", "latents"))
    assert relative(ours[0]["latent"], theirs[0]["latent"]) < 1e-3


@pytest.mark.parametrize("command", [sample_short, sample_long])
def test_a_video_of_a_seed_is_the_cpus(made: Path, tmp_path: Path, command: object) -> None:
    model = str(made / "joint" / "model.safetensors")
    arguments = [model] if command is sample_short else ["--predict", model, "--infill", model, "--frames", "50"]
    videos = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        assert command.main([*arguments, "--num", "2", "--device", device, "--format", "npz", "--out", str(out)]) == 0
        videos[device] = np.stack([np.load(path)["video"] for path in sorted(out.glob("*.npz"))]).astype(int)
    assert videos["cpu"].shape[0] == 2
    assert np.abs(videos["cpu"] - videos["cuda"]).max() <= 2, "of 255 levels"


def test_a_long_video_needs_no_more_memory_than_a_short_one(made: Path) -> None:
    model = lvdm.load(made / "joint" / "model.safetensors", device="cuda")

    def peak(frames: int) -> int:
        torch.cuda.reset_peak_memory_stats()
        assert sum(1 for _ in sample_frames(model, model, frames=frames, gap_batch=4)) == frames
        return torch.cuda.max_memory_allocated()

    peak(100)
    assert peak(2000) < 1.1 * peak(250)


def test_a_benchmark_knows_the_gpu(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, report = str(made / "joint.yaml"), made / "benchmark.json"
    assert benchmark.main([config, "--steps", "2", "--device", "cuda", "--json", str(report)]) == 0
    told = json.loads(report.read_text())
    assert torch.cuda.get_device_name() in told["device"]
    assert all(stage["peak_memory_gib"] > 0 for stage in told["stages"].values())
