"""Parts that a user made: what does not fit is one sentence, at the first call, and no video."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_long_video import tiny_model
from test_training import batch, stage
from torch import Tensor, nn

from lvdm.processes import as_device
from lvdm.sampling.long_pipeline import sample_long
from lvdm.sampling.pipeline import VideoModel
from lvdm.training.seeding import generator_for
from lvdm.types import Condition, DenoiserInputs, UserError


class Broken(nn.Module):
    inputs = DenoiserInputs(mask=True, noise_level="time", fps=True)

    def __init__(self, answer: float = 0.0, channels: int = 2) -> None:
        super().__init__()
        self.answer, self.channels = answer, channels

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        return torch.full_like(x[:, : self.channels], self.answer)


def with_network(network: nn.Module) -> VideoModel:
    return replace(tiny_model(), denoiser=network)


def test_channels_that_would_broadcast_are_refused() -> None:
    with pytest.raises(UserError, match=r"Broken returned \(1, 1, 5, 2, 2\) for a latent of shape \(1, 2, 5, 2, 2\)"):
        with_network(Broken(channels=1)).sample(1)
    model = stage(denoiser=Broken(channels=1))
    with pytest.raises(UserError, match="Broken returned shape .*, expected that of the latent"):
        model.loss(model.draw(batch(2), list(model.tasks.values())[:2], generator_for(0)))


@pytest.mark.parametrize("answer", [float("nan"), float("inf")])
def test_what_is_not_finite_becomes_no_video(answer: float) -> None:
    model = with_network(Broken(answer))
    with pytest.raises(UserError, match="the model sampled latents that are not finite"):
        model.sample(1)
    with pytest.raises(UserError, match="the model sampled latents that are not finite"):
        next(sample_long(model, model, frames=90))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": None}, "no schedule or no objective"),
        ({"denoiser": nn.Identity()}, "Identity does not say what it takes"),
    ],
)
def test_a_model_built_by_hand_is_checked_before_it_samples(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(tiny_model(), **changes).sample(1)


@pytest.mark.parametrize("name", [None, "mps", "nonsense"])
def test_a_device_that_torch_cannot_use_is_one_sentence(name: str | None) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match=f"there is no device {name} here"):
        as_device(name)
