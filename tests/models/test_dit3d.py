"""DiT3D: time per frame, conditions, what it refuses; a chain of training, model file, sampling and the memory estimate."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_training import diffusion_config, make_latents, write_config, write_videos
from torch import Tensor, nn

import lvdm
from lvdm.cli import train
from lvdm.models.denoisers import DiT3D
from lvdm.types import ABSENT, Condition, UserError

TINY = {"width": 16, "depth": 2, "num_heads": 2}
FULL = {**TINY, "mask_channel": True, "noise_level": "time", "num_labels": 3, "context_dim": 6, "fps_embedding": True}


def awake(**options: object) -> DiT3D:
    """With its zero-started layers drawn at random, so that every branch counts."""
    torch.manual_seed(0)
    network = DiT3D(**options)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def latent(batch: int = 2, frames: int = 3, size: int = 4) -> Tensor:
    return torch.randn(batch, 4, frames, size, size, generator=torch.Generator().manual_seed(1))


def condition(**changes: Tensor | None) -> Condition:
    mask = torch.zeros(2, 1, 3, 1, 1)
    mask[:, :, 0] = 1
    given = {
        **{"mask": mask, "frame_noise": torch.tensor([20, ABSENT]), "label": torch.tensor([1, ABSENT])},
        **{"context": torch.ones(2, 5, 6), "fps": torch.tensor([8.0, 2.0])},
    }
    return Condition(**{**given, **changes})


T = torch.tensor([500, 900])


@pytest.mark.parametrize("is_bf16", [False, True])
@torch.no_grad()
def test_a_constant_time_per_frame_equals_the_scalar_to_the_bit(is_bf16: bool) -> None:
    network, x = awake(**TINY), latent()
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        assert torch.equal(network(x, T), network(x, T[:, None].repeat(1, 3)))


@torch.no_grad()
def test_given_frames_have_their_own_time() -> None:
    plain = {**TINY, "mask_channel": True}
    network, other = awake(**plain, noise_level="time"), awake(**plain)
    other.load_state_dict(network.state_dict())
    given = Condition(mask=condition().mask, frame_noise=condition().frame_noise)
    expected = other(latent(), torch.tensor([[20, 500, 500], [900, 900, 900]]), Condition(mask=given.mask))
    assert torch.equal(network(latent(), T, given), expected)


@pytest.mark.parametrize("part", ["mask", "frame_noise", "label", "context", "fps"])
@torch.no_grad()
def test_every_part_of_the_condition_reaches_the_output(part: str) -> None:
    network, x = awake(**FULL), latent()
    changes = {
        **{"mask": torch.zeros(2, 1, 3, 1, 1), "frame_noise": torch.tensor([50, ABSENT]), "label": torch.tensor([0, ABSENT])},
        **{"context": 2 * torch.rand(2, 5, 6), "fps": torch.tensor([4.0, 2.0])},
    }
    assert not torch.allclose(network(x, T, condition())[0], network(x, T, condition(**{part: changes[part]}))[0])


@torch.no_grad()
def test_a_block_without_modulation_is_attention_in_space_then_in_time_then_an_mlp() -> None:
    """Written out with scaled_dot_product_attention, one frame and one place at a time."""
    block = awake(**TINY).blocks[0].double()
    x, emb = torch.randn(1, 3, 4, 16, dtype=torch.float64), torch.randn(1, 3, 16, dtype=torch.float64)
    space, time, mlp = block.modulation(emb).unflatten(-1, (3, 3, 16)).unbind(2)  # each (b, t, 3, e): shift, scale, gate

    def modulated(x: Tensor, by: Tensor) -> Tensor:
        return F.layer_norm(x, (16,)) * (1 + by[:, :, None, 1]) + by[:, :, None, 0]

    def attention(layer: nn.Module, tokens: Tensor) -> Tensor:
        q, k, v = (each(tokens).view(-1, 2, 8).transpose(0, 1) for each in (layer.to_q, layer.to_k, layer.to_v))
        weights = (q @ k.mT / math.sqrt(8)).softmax(-1)
        return layer.to_out((weights @ v).transpose(0, 1).reshape(-1, 16))

    y = modulated(x, space)
    h = x + space[:, :, None, 2] * torch.stack([attention(block.space, y[0, frame]) for frame in range(3)])[None]
    y = modulated(h, time)
    h = h + time[:, :, None, 2] * torch.stack([attention(block.time, y[0, :, place]) for place in range(4)], dim=1)[None]
    h = h + mlp[:, :, None, 2] * block.mlp(modulated(h, mlp))
    torch.testing.assert_close(block(x, emb, None), h)


@torch.no_grad()
def test_at_start_the_output_is_zero_and_a_block_changes_nothing() -> None:
    network = DiT3D(**FULL)
    assert not network(latent(), T, condition()).any()
    tokens = torch.randn(2, 3, 4, 16)
    assert torch.equal(network.blocks[0](tokens, torch.randn(2, 3, 16), torch.randn(2, 5, 6)), tokens)


def test_checkpointing_gives_the_same_gradients() -> None:
    plain, saving = awake(**FULL), awake(**FULL, checkpointing=True)
    for network in (plain, saving):
        network(latent(), T, condition()).square().mean().backward()
    for (name, one), two in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert one.grad is not None and one.grad.any() and torch.equal(one.grad, two.grad), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": 3}, "3 heads do not divide a width of 16"),
        ({"patch": 0}, "patch is 0"),
        ({"depth": -1}, "depth is -1"),
        ({"noise_level": "time"}, "needs a mask"),
        ({"noise_level": "tim", "mask_channel": True}, "noise_level is 'tim'"),
        ({"context_dim": 0}, "context_dim is 0"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DiT3D(**{**TINY, **options})


def test_a_latent_or_condition_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="multiples of 2"):
        DiT3D(**TINY)(torch.zeros(2, 4, 3, 3, 4), T)
    with pytest.raises(UserError, match="takes no mask"):
        DiT3D(**TINY)(latent(), T, Condition(mask=condition().mask))


def test_it_trains_from_a_config_loads_from_its_file_samples_and_estimates_its_memory(tmp_path: Path) -> None:
    latents, codec = make_latents(write_videos(tmp_path / "videos"), tmp_path)
    config = diffusion_config(latents, tmp_path, codec)
    options = {**TINY, "in_channels": 2, "out_channels": 2, "mask_channel": True, "noise_level": "time", "fps_embedding": True}
    config["model"]["params"]["denoiser"] = {"target": "lvdm.models.denoisers.DiT3D", "params": options}
    config["trainer"] = {**config["trainer"], "max_steps": 6}
    path = write_config(tmp_path / "dit.yaml", config)
    assert train.main([path, "--dry-run", "--json", str(tmp_path / "dry.json")]) == 0
    report = json.loads((tmp_path / "dry.json").read_text())["dry_run"]
    assert report["trained network"] == "DiT3D" and any("memory" in name for name in report)
    assert train.main([path]) == 0
    with (tmp_path / "dit" / "metrics.csv").open(newline="") as file:
        losses = [float(row["val/predict_loss"]) for row in csv.DictReader(file) if row.get("val/predict_loss")]
    assert losses[-1] < losses[0] and np.isfinite(losses).all()
    model = lvdm.load(tmp_path / "dit" / "model.safetensors")
    assert model.sample(1).shape == (1, 16, 16, 16, 3)
    assert len(list(lvdm.sample_long(model, frames=40))) == 40
