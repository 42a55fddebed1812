"""The losses of PVDM's autoencoder against the recorded ones, and its discriminators against the published names."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_planes import relative_error

from lvdm.models.autoencoders import StagedDiscriminator
from lvdm.training import feature_matching
from lvdm.types import UserError


def discriminators(known: dict[str, torch.Tensor]) -> list[StagedDiscriminator]:
    made = []
    for dims in (2, 3):
        prefix = f"weights/discriminator_{dims}d."
        made.append(StagedDiscriminator(dims, channels=8).train())
        made[-1].load_state_dict({name.removeprefix(prefix): known[name] for name in known if name.startswith(prefix)})
    return made


def test_losses_and_the_gradient_are_the_published_ones(parity):
    known = load_file(parity("pvdm_losses.safetensors"))
    x, y = known["video"], known["reconstruction"].requires_grad_()
    parts = feature_matching.generator_losses(discriminators(known), x, y, known["frame_generator"])
    loss = 4 * (x - y).abs().mean() + parts.adversarial + 4 * parts.features
    assert relative_error(loss, known["loss_generator"]) < 1e-5
    (gradient,) = torch.autograd.grad(loss, y)
    assert relative_error(gradient, known["gradient"]) < 1e-5
    networks = discriminators(known)
    loss = feature_matching.discriminator_loss(networks, x, y, known["frame_discriminator"])
    assert relative_error(loss, known["loss_discriminator"]) < 1e-5
    loss.backward()
    assert y.grad is None and all(parameter.grad is not None for each in networks for parameter in each.parameters())


def test_discriminators_have_the_published_names_and_shapes(parity):
    names = parity("README.md").parent.parent / "reference" / "pvdm_disc_keys.json"
    if not names.exists():
        pytest.skip("no list of published names next to the parity files")
    with torch.device("meta"):
        states = {dims: StagedDiscriminator(dims).state_dict() for dims in (2, 3)}
    ours = {f"discriminator_{d}d.{name}": list(tensor.shape) for d, state in states.items() for name, tensor in state.items()}
    assert ours == json.loads(names.read_text())


def test_each_clip_gives_its_own_frame():
    video = torch.arange(2.0 * 3 * 4).reshape(2, 3, 4, 1, 1)
    frames = feature_matching.frames_at(video, torch.tensor([3, 1]))
    assert torch.equal(frames[:, :, 0, 0, 0], torch.stack([video[0, :, 3, 0, 0], video[1, :, 1, 0, 0]]))
    squares = feature_matching.perceptual_loss(lambda y, x: (y - x).square(), video, video + 2, torch.tensor([3, 1]))
    assert squares == 4
    draws = feature_matching.draw_frames(4000, 4, torch.Generator().manual_seed(0))
    assert (draws.bincount() / 1000 - 1).abs().max() < 0.1 and len(draws.unique()) == 4


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_a_discriminator_judges_the_patches_of_frames_or_of_clips(norm):
    video = torch.randn(2, 3, 5, 16, 24)
    frames, clips = (StagedDiscriminator(dims, channels=4, layers=2, norm=norm) for dims in (2, 3))
    assert frames(video).shape == (10, 1, 7, 9) and clips(video).shape == (2, 1, 4, 7, 9)
    assert len(frames.features(video)) == 4 and torch.equal(frames.features(video)[-1], frames(video))
    with pytest.raises(UserError, match="dims is 4, expected an integer from 2 to 3"):
        StagedDiscriminator(4)
