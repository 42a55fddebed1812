"""Codecs whose loss is known beforehand, as model files; and a command in two processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from lvdm.checkpoints.model_file import ModelInfo, save_model
from lvdm.config import instantiate
from lvdm.models.autoencoders.posterior import Posterior

ROOT = Path(__file__).resolve().parents[1]
FOLD = "b c (t a) (h p) (w q) -> b (c a p q) t h w"
SIZES = {"a": 2, "p": 2, "q": 2}
ALLOW = ["--allow-module", "tiny_codecs"]


class Brighter(nn.Module):
    """Folds 2 x 2 x 2 pixels into channels and back, and adds its one weight to every pixel: nothing else is lost."""

    temporal_factor = spatial_factor = 2
    latent_channels = 24
    decode_halo = 0

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(()))

    def encode(self, video: Tensor) -> Posterior:
        mean = rearrange(video, FOLD, **SIZES)
        return Posterior(mean, torch.zeros_like(mean))

    def decode(self, latent: Tensor) -> Tensor:
        to, back = FOLD.split(" -> ")
        return rearrange(latent, f"{back} -> {to}", **SIZES) + self.offset


class FirstAlone(Brighter):
    """2n + 1 frames <-> n + 1 latents: the first frame is repeated, and decoding adds to each latent the one before."""

    decode_halo = 1
    first_frame_alone = True

    def encode(self, video: Tensor) -> Posterior:
        return super().encode(torch.cat([video[:, :, :1], video], dim=2))

    def decode(self, latent: Tensor) -> Tensor:
        before = torch.cat([torch.zeros_like(latent[:, :, :1]), latent[:, :, :-1]], dim=2)
        return super().decode(latent + 0.25 * before)[:, :, 1:]


def write_codec(path: Path, *, offset: float | None = None, node: dict[str, Any] | None = None, **info: Any) -> Path:
    """`Brighter` by `offset`, or the autoencoder of a config node with random weights, none of them zero."""
    node = node or {"target": "tiny_codecs.Brighter"}
    module = instantiate(node, allow=["tiny_codecs"])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape) if offset is None else torch.tensor(offset))
    tensors = {f"codec.{name}": value for name, value in module.state_dict().items()}
    save_model(path, tensors, ModelInfo(kind="autoencoder", autoencoder=node, **info))
    return path


def in_two_processes(arguments: list[str]) -> None:
    """`scripts/eval.py` as torchrun starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": paths}
    command = [sys.executable, str(ROOT / "scripts" / "eval.py"), *arguments]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    ranks = [
        subprocess.Popen(command, env={**shared, "RANK": r, "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}, **options) for r in "01"
    ]
    for rank in ranks:
        _, complaints = rank.communicate(timeout=200)
        assert rank.returncode == 0, complaints
