"""The good inputs that mutations start from: tiny videos, latents, models, checkpoints and configs, made once in a folder."""

from __future__ import annotations

import io
import json
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
import yaml
from tiny_training import (
    CODEC,
    adversarial_config,
    autoencoder_config,
    diffusion_config,
    make_latents,
    video_set,
    write_config,
    write_videos,
)

from fuzz.audit import ROOT
from lvdm.cli import train
from lvdm.config import instantiate

PUBLISHED = {
    "autoencoder": {"target": "lvdm.models.autoencoders.VAE3D", "params": {"channels": 16, "downsample": [2, 4, 4]}},
    "denoiser": {
        "target": "lvdm.models.denoisers.UNet3D",
        "params": {"model_channels": 32, "channel_mult": [1], "num_res_blocks": 1, "attention_resolutions": []},
    },
}


def make(folder: Path) -> Path:
    """All good inputs; returns the folder."""
    make_latents(write_videos(folder / "videos", count=2), folder)
    config = diffusion_config(folder / "latents", folder, folder / "autoencoder" / "model.safetensors")
    assert train.main([write_config(folder / "joint.yaml", config)]) == 0
    frames = np.random.default_rng(0).integers(0, 255, (6, 24, 32, 3), np.uint8)
    for name, options in {"a.mp4": {"fps": 8}, "a.webm": {"fps": 8, "codec": "libvpx-vp9"}}.items():
        iio.imwrite(folder / name, frames, plugin="FFMPEG", macro_block_size=1, **options)
    iio.imwrite(folder / "a.gif", frames, duration=100)
    iio.imwrite(folder / "a.png", frames[0])
    iio.imwrite(folder / "a.jpg", frames[0])
    np.save(folder / "clips.npy", np.zeros((4, 9, 16, 16, 3), np.uint8))
    prefixes = {"autoencoder": "first_stage_model.", "denoiser": "model.diffusion_model."}
    state = {
        f"{prefixes[part]}{name}": value
        for part, node in PUBLISHED.items()
        for name, value in instantiate(node).state_dict().items()
    }
    torch.save({"state_dict": state, "global_step": 7}, folder / "published.ckpt")
    (folder / "shard.tar").write_bytes(shard(folder))
    return folder


def shard(folder: Path) -> bytes:
    """Two samples: a video with text and class, images with a JSON."""
    members = {"0.mp4": (folder / "a.mp4").read_bytes(), "0.txt": b"two discs", "0.cls": b"1"}
    members |= {f"1.{i}.png": (folder / "a.png").read_bytes() for i in range(2)}
    members["1.json"] = json.dumps({"caption": "one", "label": 0}).encode()
    return tar(members)


def tar(members: dict[str, bytes]) -> bytes:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return file.getvalue()


# Configs, by command -------------------------------------------------------------------------------------------------------


@cache
def configs() -> dict[str, list[dict[str, Any]]]:
    """The trees that mutations of a command's config start from; `@MADE@` and `@AT@` stand for folders."""
    made, out = Path("@MADE@"), Path("@AT@")
    weights = made / "autoencoder" / "model.safetensors"
    joint = diffusion_config(made / "latents", out, weights)
    tiny = [joint, autoencoder_config(made / "videos", out), adversarial_config(made / "videos", out)]
    shipped = [_shipped(path) for path in sorted((ROOT / "configs" / "lvdm").glob("*.yaml"))]
    sets = {name: video_set(made / "videos") for name in ("train", "val")}
    encode = {"codec": CODEC, "codec_weights": str(weights), "data": sets, "out": str(out / "latents"), "shard_size": 2}
    scale = {"scale": 1.5, "shift": 0.5}
    converted = {
        **joint,
        "model": {
            **joint["model"],
            "params": {
                **joint["model"]["params"],
                "denoiser": PUBLISHED["denoiser"],
                "codec": {**CODEC, "params": {"autoencoder": PUBLISHED["autoencoder"], **scale}},
            },
        },
        "sampling": {"latent_shape": [4, 4, 4, 4]},
    }
    trees = {
        "train": tiny,
        "shipped": [tree for tree in shipped if "codec" not in tree],  # of full size: seconds each
        "encode": [encode, encode, *(tree for tree in shipped if "codec" in tree)],
        "eval": [tiny[1], {"data": tiny[1]["data"]}],
        "convert": [converted],
        "benchmark": tiny,
    }
    return json.loads(json.dumps(trees))


def _shipped(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())
