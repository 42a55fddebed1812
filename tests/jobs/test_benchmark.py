"""What benchmark says is what was run: FLOP against hand counts, a step against Lightning's own, rates against the clock."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader

from lvdm.cli import benchmark
from lvdm.config import instantiate, load_config, to_dict
from lvdm.jobs.benchmark import speed, stages
from lvdm.jobs.benchmark.subject import Subject, shapes_of
from lvdm.jobs.trainer import move_stepping
from lvdm.types import Condition

AUTOENCODER = {"target": "lvdm.models.autoencoders.PatchVAE3D", "params": {"channels": [8, 8], "blocks": 1, "latent_channels": 2}}
CODEC = {"target": "lvdm.models.codec.Codec", "params": {"autoencoder": AUTOENCODER}}
UNET = {
    **{"in_channels": 2, "out_channels": 2, "model_channels": 32, "channel_mult": [1], "num_res_blocks": 1, "num_heads": 2},
    **{"attention_resolutions": [1], "mask_channel": True, "noise_level": "time", "fps_embedding": True, "num_labels": 3},
}
DIFFUSION = {
    "denoiser": {"target": "lvdm.models.denoisers.UNet3D", "params": UNET},
    "codec": CODEC,
    "schedule": {"target": "lvdm.diffusion.schedules.Cosine"},
    "objective": {"target": "lvdm.diffusion.objectives.VObjective"},
    "num_latents": 4,
    "tasks": {"short": {"target": "lvdm.training.Task"}},
}
LATENTS = {"target": "lvdm.data.LatentClips", "params": {"root": "nowhere", "num_latents": 5}}
VIDEOS = {"target": "lvdm.data.VideoFolder", "params": {"root": "nowhere", "num_frames": 16, "size": 16}}
SAMPLING = {"latent_shape": [2, 4, 2, 2], "fps": 8, "steps": 3, "sampler": "dpmpp", "spacing": "trailing"}
TRAINER = {"max_steps": 1, "gradient_clip_val": 1e-3, "accelerator": "cpu"}
CPU = torch.device("cpu")
SHIPPED = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("*.yaml"))
CONFIGS = [path for path in SHIPPED if not path.stem.startswith("encode")]


def data(train: dict[str, Any]) -> dict[str, Any]:
    return {"target": "lvdm.data.VideoData", "params": {"train": train, "batch_size": 2}}


def diffusion(train: dict[str, Any] = LATENTS) -> dict[str, Any]:
    model = {"target": "lvdm.training.LatentDiffusion", "params": DIFFUSION}
    return {"model": model, "data": data(train), "trainer": TRAINER, "sampling": SAMPLING}


def autoencoder() -> dict[str, Any]:
    model = {"target": "lvdm.training.AutoencoderTraining", "params": {"codec": CODEC, "measure_batches": 0}}
    return {"model": model, "data": data(VIDEOS), "trainer": TRAINER}


def adversarial() -> dict[str, Any]:
    config = autoencoder()
    judge = {"target": "lvdm.models.autoencoders.FrameDiscriminator", "params": {"channels": 4, "layers": 1}}
    config["model"]["params"]["adversary"] = {
        "target": "lvdm.training.Adversary",
        "params": {"discriminators": [judge], "start_step": 0},
    }
    return config


def subject(config: dict[str, Any]) -> Subject:
    module = instantiate(config["model"])
    settings = {"sampling": None, **config}
    shapes = shapes_of(module, instantiate(config["data"]).train, settings["sampling"])
    return Subject(module, settings, shapes, batch_size=2, device=CPU, precision="float32")


def run(folder: Path, config: dict[str, Any], *arguments: str) -> dict[str, Any] | None:
    """The JSON of the command, on one small matrix and as few steps as there can be; None where it refused."""
    file, out = folder / "config.yaml", folder / "out.json"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    few = ["--steps", "2", "--warmup", "1", "--device", "cpu", "--json", str(out)]
    status = benchmark.main([str(file), *few, *arguments])
    assert status == (0 if out.exists() else 2)
    return json.loads(out.read_text()) if out.exists() else None


@pytest.fixture(autouse=True)
def _small_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MATMUL_SIDE", 64)


# Counting ------------------------------------------------------------------------------------------------------------------


def test_flop_of_layers_are_those_of_hand() -> None:
    linear, conv = nn.Linear(5, 7), nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0))
    x, video = torch.randn(2, 5), torch.randn(2, 3, 6, 8, 8)
    assert speed.count_flop(lambda: linear(x)) == 2 * 2 * 5 * 7
    assert speed.count_flop(lambda: linear(x).sum().backward()) == 2 * (2 * 2 * 5 * 7)  # forward, and the weight's gradient
    assert speed.count_flop(lambda: conv(video)) == 2 * (2 * 4 * 6 * 8 * 8) * (3 * 3)


def test_what_is_compiled_counts_as_much() -> None:
    linear, x = nn.Linear(5, 7), torch.randn(2, 5)
    linear.compile(backend="eager")
    linear(x)
    assert speed.count_flop(lambda: linear(x), is_compiled=True) == 2 * 2 * 5 * 7


@pytest.mark.parametrize("stage, layers", [("encode", ("down", "moments")), ("decode", ("enter", "up"))])
def test_flop_of_the_codec_are_those_of_its_layers(stage: str, layers: tuple[str, ...]) -> None:
    here = subject(autoencoder())
    counted = []

    def add(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        counted.append(2 * out.numel() * layer.weight[0].numel())

    for name in layers:
        for layer in getattr(here.module.codec.autoencoder, name).modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d):
                layer.register_forward_hook(add)
    flop = speed.count_flop(stages.STAGES[stage](here))
    assert flop == sum(counted) > 0


def test_flop_of_sampling_are_its_steps_times_the_network() -> None:
    here = subject(diffusion())
    x, t, fps = here.random(here.shapes.latent), torch.zeros(2, dtype=torch.long), torch.ones(2)
    with torch.no_grad():
        once = speed.count_flop(lambda: here.module.denoiser(x, t, Condition(fps=fps)))
    assert speed.count_flop(stages.sampling(here)) == SAMPLING["steps"] * once > 0


# The step ------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on a run of one step
@pytest.mark.parametrize(
    "config",
    [autoencoder(), adversarial(), diffusion(), diffusion(VIDEOS)],
    ids=["autoencoder", "adversarial", "latents", "videos"],
)
def test_a_training_step_is_lightnings_to_the_bit(config: dict[str, Any], tmp_path: Path) -> None:
    here = subject(config)
    untrained, theirs = copy.deepcopy(here.module), copy.deepcopy(here.module)
    torch.manual_seed(1)
    batch = here.batch()
    torch.manual_seed(1)
    call = stages.training(here)  # draws the same batch
    here.module.train()
    call()
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    settings = dict(TRAINER)
    move_stepping(theirs, settings)
    pl.Trainer(**settings, **off, default_root_dir=tmp_path).fit(theirs, DataLoader([batch], batch_size=None))
    trained = dict(here.module.named_parameters())
    assert all(torch.equal(trained[name], parameter) for name, parameter in theirs.named_parameters())
    assert not all(torch.equal(trained[name], parameter) for name, parameter in untrained.named_parameters())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_shapes_of_every_shipped_config_fit_its_codec(path: Path) -> None:
    config = load_config([path])
    with torch.device("meta"):
        codec = instantiate(config.model.params.codec)
    sampling = to_dict(config).get("sampling")
    shapes = shapes_of(SimpleNamespace(codec=codec), instantiate(config.data).train, sampling)
    c, _, h, w = shapes.latent
    channels, _, height, width = codec.latent_shape(*shapes.video[1:])
    assert (c, h, w) == (channels, height, width)
    assert shapes.sample == (shapes.video if shapes.key == "video" else (c, shapes.sample[1], h, w))


# The command ---------------------------------------------------------------------------------------------------------------


def test_a_machine_that_takes_half_a_second_has_this_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "timed", lambda call, device: 0.5)
    assert speed.matmul_rate(speed.Machine(CPU, torch.float32)) == 2 * 64**3 / 0.5


def test_figures_follow_from_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 1, 2, 3, 4, 5 s after a warm-up of 100 s, and 0.5 s for a matrix product."""
    seconds = iter([100.0, 3.0, 1.0, 5.0, 2.0, 4.0, *[0.5] * speed.MATMUL_REPEATS])
    monkeypatch.setattr(speed, "timed", lambda call, device: next(seconds))
    linear, x = nn.Linear(500, 1000), torch.randn(3, 500)
    made = speed.measure(
        lambda: linear(x), speed.Machine(CPU, torch.float32), name="x", videos=6, steps=5, warmup=1, is_compiled=False
    )
    assert (made.seconds, made.seconds_quartiles, made.videos_per_second) == (3.0, (2.0, 4.0), 2.0)
    assert made.gflop == pytest.approx(2 * 3 * 500 * 1000 / 1e9)
    assert made.gflop_per_second == pytest.approx(made.gflop / 3)
    assert made.share_of_matmul == pytest.approx(made.gflop_per_second / made.matmul_gflop_per_second)
    assert made.matmul_gflop_per_second == pytest.approx(2 * 64**3 / 0.5 / 1e9)


@pytest.mark.parametrize(
    "config, stages",
    [(diffusion(), ["encode", "decode", "sample", "train"]), (autoencoder(), ["encode", "decode", "train"])],
    ids=["diffusion", "autoencoder"],
)
def test_every_stage_that_a_config_has_is_measured_without_data(
    config: dict[str, Any], stages: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(tmp_path, config)
    assert report is not None and list(report["stages"]) == stages and report["precision"] == "float32"
    for each in report["stages"].values():
        assert min(each["seconds"], each["gflop"], each["matmul_gflop_per_second"], each["peak_memory_gib"]) > 0
        assert each["videos_per_second"] == pytest.approx(2 / each["seconds"])
    _, *lines = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in lines}) == 1 and [line.split()[0] for line in lines] == ["stage", *stages]


def test_stage_batch_and_precision_can_be_chosen(tmp_path: Path) -> None:
    half = run(tmp_path, diffusion(), "--stage", "train", "--batch-size", "1")
    whole = run(tmp_path, diffusion(), "--stage", "train", "trainer.precision=bf16-mixed")
    assert half is not None and whole is not None and list(half["stages"]) == ["train"]
    assert (half["batch_size"], whole["batch_size"], whole["precision"]) == (1, 2, "bfloat16")
    assert whole["stages"]["train"]["gflop"] == pytest.approx(2 * half["stages"]["train"]["gflop"], rel=0.01)


@pytest.mark.parametrize(
    "config, arguments, words",
    [
        (autoencoder(), ["--stage", "sample"], "no stage sample; give one of encode, decode, train"),
        ({**diffusion(), "sampling": None}, [], "needs `sampling`"),
        (diffusion(), ["--steps", "0"], "steps 0"),
        (diffusion(), ["--batch-size", "0"], "batch_size 0"),
        (diffusion(), ["--compile", "--warmup", "0"], "would measure the compiler"),
        (diffusion(), ["--compile", "--stage", "decode"], "compile has no effect on decode"),
        (diffusion(), ["trainer.precision=16-mixed"], "trainer.precision is 16-mixed"),
        (diffusion(), ["--device", "cuda"], "no GPU"),
    ],
)
def test_what_cannot_be_measured_is_said(
    config: dict[str, Any], arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(tmp_path, config, *arguments) is None
    assert words in capsys.readouterr().err
