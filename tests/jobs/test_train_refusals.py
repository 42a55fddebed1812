"""What scripts/train.py refuses: exit status 2, one sentence that says what to mend, and not a file left behind."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import (
    AUTOENCODER,
    UNET,
    autoencoder_config,
    diffusion_config,
    latent_set,
    make_latents,
    write_config,
    write_videos,
)

from lvdm.checkpoints.model_file import ModelInfo, save_model
from lvdm.cli import train
from lvdm.config import instantiate

Break = Callable[[dict[str, Any], Path], list[str] | None]  # changes the config, or gives further arguments

UNET3D = {"target": "lvdm.models.denoisers.UNet3D", "params": UNET}
COSINE = {"target": "lvdm.training.Cosine"}
PLAIN = {"in_channels": 2, "model_channels": 32, "channel_mult": [1], "attention_resolutions": []}
ALL = {"target": "lvdm.diffusion.masks.FirstFrames", "params": {"counts": [4]}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_latents(write_videos(folder / "videos"), folder)
    return folder


def set_(path: str, value: Any) -> Break:
    """One key of the config, by its path; `...` removes it."""

    def change(config: dict[str, Any], _: Path) -> None:
        *parents, last = path.split(".")
        for part in parents:
            config = config[part]
        if value is ...:
            del config[last]
        else:
            config[last] = value

    return change


def model_file(folder: Path, **params: Any) -> Path:
    """An autoencoder of another size, or of this one with other weights."""
    node = {**AUTOENCODER, "params": {**AUTOENCODER["params"], **params}}
    tensors = {f"codec.{name}": tensor for name, tensor in instantiate(node).state_dict().items()}
    save_model(folder / "given.safetensors", tensors, ModelInfo(kind="autoencoder", autoencoder=node))
    return folder / "given.safetensors"


def other_autoencoder(config: dict[str, Any], at: Path) -> None:
    config["codec_weights"] = str(model_file(at))


def other_size(config: dict[str, Any], at: Path) -> None:
    config["codec_weights"] = str(model_file(at, channels=[8, 16]))


def cut(config: dict[str, Any], at: Path) -> None:
    (at / "cut.safetensors").write_bytes(Path(config["codec_weights"]).read_bytes()[:-100])
    config["codec_weights"] = str(at / "cut.safetensors")


def below_a_file(config: dict[str, Any], at: Path) -> None:
    (at / "file").write_text("")
    config["out"] = str(at / "file" / "runs")


def without_end(config: dict[str, Any], at: Path) -> None:
    config["model"]["params"]["learning_rate"] = COSINE
    config["trainer"]["max_steps"] = -1


def rarely(config: dict[str, Any], at: Path) -> None:
    config["trainer"] |= {"val_check_interval": 5, "check_val_every_n_epoch": 1}


def on_latents(config: dict[str, Any], at: Path) -> None:
    videos = Path(config["data"]["params"]["train"]["params"]["root"])
    config["data"]["params"]["val"] = latent_set(videos.parent / "latents" / "val")


P = "model.params"
JOINT: dict[str, tuple[str, Break]] = {
    "unknown key": (f"num_latent is no argument of LatentDiffusion; did you mean {P}.num_latents?", set_(f"{P}.num_latent", 3)),
    "unknown root key": ("averge is not a setting; did you mean average?", set_("averge", 0.5)),
    "missing key": (f"{P}.num_latents is missing", set_(f"{P}.num_latents", ...)),
    "missing part": ("data is missing", set_("data", ...)),
    "wrong type": ("trainer.max_steps is \"many\", expected int", set_("trainer.max_steps", "many")),
    "foreign target": ("os.system", set_(f"{P}.objective.target", "os.system")),
    "another kind": ("expected a target of kind AutoencoderTraining", set_("model", {"target": "torch.nn.Identity"})),
    "our own key": ("trainer.logger is given by lvdm itself", set_("trainer.logger", False)),
    "missing file": ("no config file", lambda config, at: [str(at / "nothing.yaml")]),
    "no codec": ("give its model file as codec_weights", set_("codec_weights", None)),
    "no model file": ("there is no model file nothing.safetensors", set_("codec_weights", "nothing.safetensors")),
    "truncated model file": ("cut.safetensors is a truncated", cut),
    "model file of another size": ("do not fit the PatchVAE3D that the config builds", other_size),
    "latents of another autoencoder": ("the cached latents of train were made by another autoencoder", other_autoencoder),
    "no latents": ("nothing", set_("data.params.train.params.root", "nothing")),
    "latent shape": ("does not fit the model, which has 2 channels and windows", set_("sampling.latent_shape", [2, 5, 2, 2])),
    "latent shape in short": ("latent_shape is [2, 4, 2], expected a list of 4", set_("sampling.latent_shape", [2, 4, 2])),
    "latent size": ("whose latents are 2 x 2", set_("sampling.latent_shape", [2, 4, 4, 4])),
    "no sampling": ("a diffusion stage needs `sampling`", set_("sampling", None)),
    "sampler": ("sampling.sampler is 'euler', expected one of ddim", set_("sampling.sampler", "euler")),
    "spacing": ("sampling.spacing is 'even', expected one of published", set_("sampling.spacing", "even")),
    "gap steps": ("sampling.gap_steps: ", set_("sampling.gap_steps", 2000)),
    "condition noise": ("sampling.condition_noise is 1000", set_("sampling.condition_noise", 1000)),
    "sharded weights": ("trainer.strategy is deepspeed, which is not supported", set_("trainer.strategy", "deepspeed")),
    "Lightning's own parts": ("trainer.strategy is FSDP, which is not supported", set_("trainer.strategy", "FSDP")),
    "weights in parts in float16": (
        "cannot scale sharded gradients; take bf16-mixed",
        lambda config, at: config["trainer"].update(strategy="fsdp", precision="16-mixed"),
    ),
    "classes without labels": ("num_labels 3, but no video of train has a class", set_(f"{P}.denoiser.params.num_labels", 3)),
    "no class to leave out": ("label_dropout has no effect on a denoiser without classes", set_(f"{P}.label_dropout", 0.1)),
    "lead-in": ("sampling.lead_in is -1", set_("sampling.lead_in", -1)),
    "overlap": ("sampling.overlap is 4, expected less than the 4 latents", set_("sampling.overlap", 4)),
    "short val": ("on the data of val: a window of 4 latents at stride 2 spans 7", set_("data.params.val.params.num_latents", 6)),
    "long windows": ("data of train: a window of 4 latents at stride 3 spans 10", set_(f"{P}.tasks.predict.params.stride", 3)),
    "everything given": ("predict on the data of train: counts goes up to 4", set_(f"{P}.tasks.predict.params.mask", ALL)),
    "no mask channel": ("the task predict gives frames", set_(f"{P}.denoiser.params", PLAIN)),
    "no end": ("Cosine falls towards the end of training, but none is set", without_end),
    "no time": ("max_minutes is 0", set_("max_minutes", 0)),
    "average": ("the decay of the averaged weights is 1", set_("average", 1.0)),
    "checkpoints": ("checkpoints.every_steps is 0", set_("checkpoints", {"every_steps": 0})),
    "seed": ("seed is -1", set_("seed", -1)),
    "pace": ("trainer.val_check_interval is 5 batches and an epoch has 4", rarely),
    "no steps": ("trainer.max_steps is 0, expected 1 or more", set_("trainer.max_steps", 0)),
    "no validation batches": ("trainer.val_check_interval is 0, expected 1 or more", set_("trainer.val_check_interval", 0)),
    "mask": ("expected a target of kind Mask", set_(f"{P}.tasks.short.params", {"mask": COSINE})),
    "codec": ("expected a target of kind Codec", set_(f"{P}.codec", {"target": "torch.nn.Identity"})),
    "denoiser": ("PatchVAE3D does not say what it takes", set_(f"{P}.denoiser", AUTOENCODER)),
    "denoiser of torch": ("Identity does not say what it takes", set_(f"{P}.denoiser", {"target": "torch.nn.Identity"})),
    "autoencoder": (f"{P}.codec: UNet3D is no VideoAutoencoder", set_(f"{P}.codec.params.autoencoder", UNET3D)),
    "no heads": (f"{P}.denoiser: ", set_(f"{P}.denoiser.params.num_heads", 0)),
    "strategy of a hub": ("a config may name", set_("trainer.strategy", {"target": "pytorch_lightning.strategies.FSDPStrategy"})),
    "objective": ("expected a target of kind Objective", set_(f"{P}.objective", COSINE)),
    "accelerator": ("trainer: ", set_("trainer.accelerator", "abacus")),
    "precision": ("trainer.precision is", set_("trainer.precision", "12-true")),
    "large batch": ("fewer than a batch of 9", set_("data.params.batch_size", 9)),
    "folder": ("cannot make the run's folder", below_a_file),
    "name that leads out": ("cannot be called '../../x'", set_("name", "../../x")),
    "name with NUL": ("give a name that stays below", set_("name", "a\0b")),
    "no checkpoint": ("there is no checkpoint", lambda config, at: ["--resume", str(at / "none.ckpt")]),
}  # fmt: skip
AUTO: dict[str, tuple[str, Break]] = {
    "sampling": ("`sampling` has no effect on an autoencoder", set_("sampling", {"latent_shape": [2, 4, 2, 2]})),
    "preview steps": ("previews.steps has no effect on an autoencoder", set_("previews", {"steps": 3})),
    "in parts": ("shards a denoiser, and an autoencoder has none", set_("trainer.strategy", "fsdp")),
    "frames": ("7 frames", set_("data.params.train.params.num_frames", 7)),
    "no videos": ("nothing", set_("data.params.train.params.root", "nothing")),
    "latents": ("an autoencoder trains on videos", on_latents),
}  # fmt: skip


def refused(config: dict[str, Any], change: Break, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence; nothing may have been written where runs go."""
    arguments = change(config, tmp_path) or []
    assert train.main([write_config(tmp_path / "config.yaml", config), *arguments]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "pytest: " in line or "Traceback" in line]
    assert len(said) == 1 and said[0].startswith("pytest: "), said
    assert not (tmp_path / "runs").exists()
    return said[0]


@pytest.mark.parametrize("case", JOINT)
def test_a_diffusion_run_refuses_before_it_leaves_a_file(case, made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pytest"])
    config = diffusion_config(made / "latents", tmp_path / "runs", made / "autoencoder" / "model.safetensors")
    words, change = JOINT[case]
    assert words in refused(copy.deepcopy(config), change, tmp_path, capsys)


@pytest.mark.parametrize("case", AUTO)
def test_an_autoencoder_run_refuses_before_it_leaves_a_file(case, made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pytest"])
    words, change = AUTO[case]
    assert words in refused(copy.deepcopy(autoencoder_config(made / "videos", tmp_path / "runs")), change, tmp_path, capsys)


# Checkpoints ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, with its config beside it."""
    folder = tmp_path_factory.mktemp("run")
    config = diffusion_config(made / "latents", folder, made / "autoencoder" / "model.safetensors")
    assert train.main([write_config(folder / "joint.yaml", config)]) == 0
    return folder / "joint"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def dangerous(path: Path) -> None:
    torch.save({"state_dict": {}, "run": print}, path)


def other_codec(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    name = next(name for name in state["state_dict"] if name.startswith("codec.autoencoder"))
    state["state_dict"][name] += 1
    torch.save(state, path)


@pytest.mark.parametrize(
    ("words", "damage", "settings"),
    [
        ("is truncated, or damaged at its end", truncate, []),
        ("is truncated, or of another program", empty, []),
        ("is not a checkpoint of a run", foreign, []),
        ("is truncated, or of another program", dangerous, []),
        ("is of another model: ", None, [f"{P}.denoiser.params.model_channels=64"]),
        ("is of another optimizer than Muon", None, [f"{P}.optimizer={{target: lvdm.training.Muon}}"]),
        ("latents of another autoencoder", other_codec, []),
        ("there is no checkpoint nothing.ckpt", None, ["--resume", "nothing.ckpt"]),
        ("exists; give another name", None, ["--resume", "never"]),
    ],
)
def test_what_cannot_be_gone_on_from_is_told_and_left_as_it_is(words, damage, settings, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pytest"])
    shutil.copytree(run, tmp_path / "joint")
    if damage:
        damage(tmp_path / "joint" / "checkpoints" / "last.ckpt")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    config = str(run.with_suffix(".yaml"))
    assert train.main([config, f"out={tmp_path}", "trainer.max_steps=4", *settings]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pytest: ")]
    assert len(said) == 1 and words in said[0]
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
