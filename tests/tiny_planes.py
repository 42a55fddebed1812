"""Tiny networks of PVDM, recorded ones, and the fill rule of pvdm_golden.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lvdm.models.autoencoders import TriplaneAE
from lvdm.models.denoisers import TriplaneUNet
from lvdm.planes import Planes

RECORDED_AE = {"size": 32, "channels": 64}
RECORDED_UNET = {"model_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2, 2], "num_heads": 4}
TINY_AE = {"channels": 16, "depth": 1, "num_heads": 2, "head_width": 8, "projector_depth": 1, "latent_channels": 3}
TINY_UNET = {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [2], "num_heads": 4}
AE_TABLES = [f"{part}.{name}" for part in ("encoder", "decoder") for name in ("frame_rot_emb.inv_freqs", "image_rot_emb.scales")]
Parity = Callable[[str], Path]


def recorded(network: nn.Module, path: Path, prefix: str = "weights/") -> tuple[Any, dict[str, Tensor]]:
    """The network with recorded weights, and the file."""
    known = load_file(path)
    network.load_state_dict({name: known[f"{prefix}{name}"] for name in network.state_dict()})
    return network, known


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


def awake(network: nn.Module) -> Any:
    """With its zero-started layers drawn at random, so that every branch counts."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def tiny_ae(frames: int = 4, height: int = 16, width: int = 24, patch: int = 4, **options: Any) -> TriplaneAE:
    return TriplaneAE((height, width), frames, patch, **{**TINY_AE, **options})


def tiny_unet(*planes: int, **options: Any) -> TriplaneUNet:
    return awake(TriplaneUNet(planes or (4, 8, 12), **{**TINY_UNET, **options}))


def filled(network: nn.Module, tables: list[str], prefix: str = "") -> Any:
    """The fill rule: a function of an element's index and of its name's among all published names, tables included."""
    names = sorted([prefix + name for name in network.state_dict()] + tables)
    with torch.no_grad():
        for name, weight in network.state_dict().items():
            turns = 12.9898 * torch.arange(weight.numel(), dtype=torch.float64) + 78.233 * names.index(prefix + name)
            waves = turns.sin() * 43758.5453
            u = (2 * (waves - waves.floor()) - 1).reshape(weight.shape)
            if weight.ndim == 1:
                weight.copy_(name.endswith("weight") + 0.1 * u)
            else:
                weight.copy_(u * (3 / weight[0].numel()) ** 0.5)
    return network


def wave(frequency: float, *shape: int) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.sin(frequency * torch.arange(count, dtype=torch.float64)).float().reshape(shape)


def check_golden(ours: Tensor, golden: dict[str, Any]) -> None:
    """Compare with the recorded first and last numbers, mean and standard deviation."""
    assert list(ours.shape) == golden["shape"]
    flat = ours.flatten().double()
    got = torch.cat([flat[:4], flat[-4:], flat.mean()[None], flat.std(correction=0)[None]])
    known = torch.tensor([*golden["first"], *golden["last"], golden["mean"], golden["std"]], dtype=torch.float64)
    assert relative_error(got, known) < 1e-5


def plain_planes(monkeypatch: Any) -> None:
    """Let every plane run alone, as in the published code."""
    monkeypatch.setattr(Planes, "stacks", (1, 1, 1))
