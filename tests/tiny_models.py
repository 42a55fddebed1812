"""Tiny model files with random weights, whose description a test can change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_training import AUTOENCODER, UNET
from torch import Tensor

from lvdm.checkpoints.model_file import FORMAT
from lvdm.config import instantiate

Description = dict[str, Any]

DENOISER = {
    "target": "lvdm.models.denoisers.UNet3D",
    "params": {**UNET, "attention_resolutions": [1], "temporal_length": 4, "dropout": 0.1, "transformer_depth": 1},
}
SAMPLING = {
    **{"latent_shape": [2, 4, 2, 2], "fps": 8.0, "key_stride": 2, "overlap": 1, "sampler": "ddim", "eta": 0.5, "steps": 2},
    **{"gap_steps": 2, "spacing": "trailing", "guidance": 0.5, "condition_noise": 10, "gap_noise": 0, "lead_in": 4},
}


def describe(kind: str) -> Description:
    """A description that loads, with every field."""
    described = {
        "kind": kind,
        **dict.fromkeys(("denoiser", "schedule", "objective", "text_encoder", "text_fingerprint")),
        "autoencoder": AUTOENCODER,
        "scale": 1.5,
        "shift": 0.5,
        "sampling": {"decode_window": 4},
        "step": 3,
        "config": {"average": 0.9, "model": {"target": "lvdm.training.AutoencoderTraining", "params": {"seed": 0}}},
        "data_fingerprint": "ab",
        "version": "0.1.0",
    }
    if kind == "diffusion":
        described["denoiser"] = DENOISER
        described["schedule"] = {"target": "lvdm.diffusion.schedules.Cosine", "params": {"num_steps": 50, "snr_shift": 2.0}}
        described["objective"] = {"target": "lvdm.diffusion.objectives.VObjective"}
        described["sampling"] = {**described["sampling"], **SAMPLING}
    return json.loads(json.dumps(described))


def tensors_of(described: Mapping[str, Any]) -> dict[str, Tensor]:
    """Random weights of the networks that a description names."""
    torch.manual_seed(0)
    parts = {"codec": described["autoencoder"], "denoiser": described["denoiser"]}
    states = {part: instantiate(node).state_dict() for part, node in parts.items() if node is not None}
    return {f"{part}.{name}": tensor for part, state in states.items() for name, tensor in state.items()}


def write_text(path: Path, text: str, tensors: Mapping[str, Tensor]) -> Path:
    """A model file whose description is any text."""
    save_file(dict(tensors), path, {"lvdm": text, "lvdm_format": str(FORMAT)})
    return path
