"""What is run: tiny trainings, encoding, sampling and evaluation, and all that two results of it must have in common."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tiny_training import (
    CODEC,
    Config,
    adversarial_config,
    diffusion_config,
    latent_set,
    make_latents,
    video_set,
    write_config,
    write_videos,
)

from lvdm.cli import encode, train

STEPS = 12
STATE = ("global_step", "state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "loops")
CLIPS = {"num_frames": 28, "random_clip": False, "clips_per_video": 2, "flip": False}
PROTOCOL = {"runs": 1, "resolution": 16, "antialias": True}
MEASURED = {"protocol": "lvdm-fvd2048", "set": PROTOCOL, "features": "random", "feature_width": 0.1, "fewer": 3}
Content = dict[str, Any]  # by file


@dataclass(frozen=True)
class Work:
    """A command, the folder that it leaves, and a mark of its progress: a file that comes once it has something to lose."""

    name: str
    script: str
    arguments: list[str]
    folder: Path
    progress: str

    def content(self) -> Content:
        """All that an unharmed run leaves, except times."""
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        read = {str(path.relative_to(self.folder)): _read(path) for path in files if not _is_left_out(path, self.folder)}
        return {name: value for name, value in read.items() if value is not None}

    def leftovers(self) -> list[str]:
        """Unfinished files of writers that were killed."""
        hidden = (path for path in self.folder.rglob(".*") if path.is_file() and not path.name.startswith(".lvdm"))
        return [str(path.relative_to(self.folder)) for path in hidden]

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_left_out(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    return any(part.startswith(".") or part in ("tensorboard", "cache") for part in parts)


def _read(path: Path) -> Any:
    """What is compared of a file; None for one that depends on when a run stopped."""
    if path.suffix == ".ckpt":
        state = torch.load(path, map_location="cpu", weights_only=True) if path.name == "last.ckpt" else None
        return None if state is None else {part: _digest(state[part]) for part in STATE}
    if path.suffix == ".safetensors":  # its metadata are in no order
        with safe_open(path, "pt") as file:
            return {**file.metadata(), **{name: _digest(file.get_tensor(name)) for name in sorted(file.keys())}}
    if path.suffix == ".json" and "metrics" in (read := json.loads(path.read_text())):
        return read["metrics"]
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix != ".csv" else path.read_text().splitlines()


def _digest(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        whole = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return hashlib.sha256(f"{value.dtype} {tuple(value.shape)}".encode() + whole).hexdigest()
    if isinstance(value, dict):
        return {str(key): _digest(each) for key, each in value.items()}
    return [_digest(each) for each in value] if isinstance(value, (list, tuple)) else value


def differences(whole: Any, harmed: Any, at: str = "") -> list[str]:
    """Where two contents differ, by name."""
    if isinstance(whole, dict) and isinstance(harmed, dict):
        names = {*whole, *harmed}
        return [each for name in sorted(names) for each in differences(whole.get(name), harmed.get(name), f"{at}/{name}")]
    if isinstance(whole, list) and isinstance(harmed, list) and len(whole) == len(harmed):
        return [each for i, pair in enumerate(zip(whole, harmed, strict=True)) for each in differences(*pair, f"{at}/{i}")]
    return [] if whole == harmed else [f"{at}: {str(whole)[:90]} unharmed, {str(harmed)[:90]} now"]


# The works -----------------------------------------------------------------------------------------------------------------


def prepare(made: Path) -> None:
    """Videos, an autoencoder, latents, cached clips and a joint model. Runs in a process of its own."""
    make_latents(write_videos(made / "videos"), made)
    weights = str(made / "autoencoder" / "model.safetensors")
    sets = {"train": video_set(made / "videos", **CLIPS), "val": video_set(made / "videos", random_clip=False, num_frames=28)}
    cached = {"codec": CODEC, "codec_weights": weights, "data": sets, "out": str(made / "clips"), "dtype": "float32"}
    cached |= {"clips": True, "std": True, "flips": True}
    assert encode.main([write_config(made / "clips.yaml", cached)]) == 0
    assert train.main([write_config(made / "joint.yaml", diffusion_config(made / "latents", made, Path(weights)))]) == 0


def training(config: Config) -> Config:
    """With a worker and frequent checkpoints; validation within and at the end of an epoch."""
    config["data"]["params"]["num_workers"] = 1
    trainer = {**config["trainer"], "max_steps": STEPS, "val_check_interval": 5}
    return {**config, "trainer": trainer, "checkpoints": {"every_steps": 1}}


def adversary(made: Path, out: Path) -> Config:
    config = adversarial_config(made / "videos", out)
    config["data"]["params"]["train"]["params"]["flip"] = True
    return training(config)


def joint(made: Path, out: Path) -> Config:
    """With dropout, and evaluated in training."""
    config = diffusion_config(made / "latents", out, made / "autoencoder" / "model.safetensors")
    config["model"]["params"]["denoiser"]["params"] = {**config["model"]["params"]["denoiser"]["params"], "dropout": 0.2}
    return training({**config, "evaluation": {**MEASURED, "real": str(made / "videos")}})


def cache(made: Path, out: Path) -> Config:
    """The joint model from cached clips, sampled from the posterior and mirrored."""
    config = diffusion_config(made / "latents", out, made / "autoencoder" / "model.safetensors")
    config["model"]["params"] |= {"sample_posterior": True}
    sets = {part: latent_set(made / "clips" / part, random_clip=False, std=True) for part in ("train", "val")}
    sets["train"]["params"]["flip"] = True
    config["data"]["params"] |= sets
    return training(config)


TRAININGS: dict[str, Callable[[Path, Path], Config]] = {"adversary": adversary, "joint": joint, "cache": cache}


def work(name: str, made: Path, at: Path) -> Work:
    """A work whose results lie below `at`, always under the same name, since results name their folders."""
    at.mkdir(parents=True, exist_ok=True)
    folder, model = at / "result", str(made / "joint" / "model.safetensors")
    if name in TRAININGS:
        config = write_config(at / f"{name}.yaml", TRAININGS[name](made, at))
        return Work(name, "train", [config, "--name", "result"], folder, "checkpoints/last.ckpt")
    if name == "encode":
        sets = {part: video_set(made / "videos") for part in ("train", "val")}
        weights = str(made / "autoencoder" / "model.safetensors")
        config = {"codec": CODEC, "codec_weights": weights, "data": sets, "out": str(folder), "shard_size": 1, "std": True}
        return Work(name, "encode", [write_config(at / "encode.yaml", config)], folder, "train")
    sampled = ["--steps", "2", "--batch-size", "1", "--format", "npz,mp4", "--resume", "--out", str(folder)]
    if name == "sample short":
        return Work(name, "sample_short", [model, "--num", "20", *sampled], folder, "seed0-00000.npz")
    if name == "sample long":
        models = ["--predict", model, "--frames", "70", "--num", "6"]
        return Work(name, "sample_long", [*models, *sampled], folder, "seed0-00000.npz")
    assert name == "evaluate", name
    measured = ["--protocol", "lvdm-fvd2048", "--features", "random", "--feature-width", "0.1", "--allow-fewer", "3"]
    changes = ["--set", *(f"{key}={json.dumps(value)}" for key, value in PROTOCOL.items())]
    sources = ["--real", str(made / "videos"), "--fake", model, "--out", str(folder / "result.json")]
    return Work(name, "eval", [*sources, *measured, *changes], folder, "cache")


WORKS = (*TRAININGS, "encode", "sample short", "sample long", "evaluate")
