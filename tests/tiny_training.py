"""Tiny videos, configs and runs that the tests of training share: clips of 16 pixels, networks of 8 and 32 channels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
import yaml

from lvdm.cli import encode, train

Config = dict[str, Any]

AUTOENCODER = {
    "target": "lvdm.models.autoencoders.PatchVAE3D",
    "params": {"channels": [8, 8], "blocks": 1, "latent_channels": 2},
}
CODEC = {"target": "lvdm.models.codec.Codec", "params": {"autoencoder": AUTOENCODER}}
UNET = {
    **{"in_channels": 2, "out_channels": 2, "model_channels": 32, "channel_mult": [1], "num_res_blocks": 1, "num_heads": 2},
    **{"attention_resolutions": [], "mask_channel": True, "noise_level": "time", "fps_embedding": True},
}
TRAINER = {
    **{"max_steps": 2, "val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": 1},
    **{"log_every_n_steps": 1, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"},
}
FIRST = {"target": "lvdm.diffusion.masks.FirstFrames", "params": {"counts": [1, 2]}}
TASKS = {
    "predict": {"target": "lvdm.training.Task", "params": {"mask": FIRST, "stride": 2}},
    "short": {"target": "lvdm.training.Task"},
}


def write_videos(folder: Path, *, count: int = 4, frames: int = 40, size: int = 32) -> Path:
    """Moving stripes as mp4, another speed and colour in each."""
    folder.mkdir(parents=True, exist_ok=True)
    t, y, x = np.meshgrid(np.arange(frames), np.arange(size), np.arange(size), indexing="ij")
    for index in range(count):
        wave = 127 + 100 * np.sin(0.5 * x + 0.3 * (index + 1) * t)
        video = np.stack([wave, np.roll(wave, index, axis=1), 255 - wave], axis=-1).astype(np.uint8)
        iio.imwrite(folder / f"{index}.mp4", video, fps=8, plugin="FFMPEG", macro_block_size=1)
    return folder


def video_set(root: Path, **params: Any) -> Config:
    return {"target": "lvdm.data.VideoFolder", "params": {"root": str(root), "num_frames": 8, "size": 16, **params}}


def latent_set(root: Path, **params: Any) -> Config:
    return {"target": "lvdm.data.LatentClips", "params": {"root": str(root), "num_latents": 7, **params}}


def data_of(train_set: Config, val_set: Config | None, **params: Any) -> Config:
    return {"target": "lvdm.data.VideoData", "params": {"train": train_set, "val": val_set, "batch_size": 2, **params}}


def autoencoder_config(videos: Path, out: Path) -> Config:
    return {
        "model": {"target": "lvdm.training.AutoencoderTraining", "params": {"codec": CODEC, "measure_batches": 2}},
        "data": data_of(video_set(videos, clips_per_video=2), video_set(videos, random_clip=False)),
        "trainer": TRAINER,
        "average": 0.9,
        "previews": {"num": 0},
        "out": str(out),
    }


def adversarial_config(videos: Path, out: Path) -> Config:
    """The autoencoder with both kinds of discriminator from step 2 on; norms that look at one sample."""
    config = autoencoder_config(videos, out)
    judges = [
        {"target": f"lvdm.models.autoencoders.{kind}Discriminator", "params": {"channels": 4, "layers": 1, "norm": "group"}}
        for kind in ("Frame", "Clip")
    ]
    adversary = {"target": "lvdm.training.Adversary", "params": {"discriminators": judges, "start_step": 2}}
    params = {**config["model"]["params"], "adversary": adversary}
    return {**config, "model": {**config["model"], "params": params}}


def diffusion_config(latents: Path, out: Path, codec_weights: Path) -> Config:
    return {
        "model": {
            "target": "lvdm.training.LatentDiffusion",
            "params": {
                "denoiser": {"target": "lvdm.models.denoisers.UNet3D", "params": UNET},
                "codec": CODEC,
                "schedule": {"target": "lvdm.diffusion.schedules.Cosine"},
                "objective": {"target": "lvdm.diffusion.objectives.VObjective"},
                "num_latents": 4,
                "tasks": TASKS,
            },
        },
        "data": data_of(latent_set(latents / "train", clips_per_video=2), latent_set(latents / "val", random_clip=False)),
        "trainer": TRAINER,
        "average": 0.9,
        "previews": {"num": 0},
        "sampling": {"latent_shape": [2, 4, 2, 2], "fps": 8, "steps": 2, "sampler": "dpmpp", "spacing": "trailing"},
        "codec_weights": str(codec_weights),
        "out": str(out),
    }


def write_config(path: Path, config: Mapping[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))
    return str(path)


def make_latents(videos: Path, folder: Path) -> tuple[Path, Path]:
    """An autoencoder trained for two steps and the latents of its videos: (folder of latents, model file)."""
    model = folder / "autoencoder" / "model.safetensors"
    assert train.main([write_config(folder / "autoencoder.yaml", autoencoder_config(videos, folder))]) == 0
    config = {"codec": CODEC, "data": {"train": video_set(videos), "val": video_set(videos)}, "out": str(folder / "latents")}
    assert encode.main([write_config(folder / "encode.yaml", {**config, "codec_weights": str(model)})]) == 0
    return folder / "latents", model


def checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
