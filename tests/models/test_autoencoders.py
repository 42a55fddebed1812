"""Autoencoders: published numbers and names, windows against whole decoding, checkpointing, the posterior."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lvdm.models.autoencoders import VAE3D, PatchVAE3D, Posterior
from lvdm.types import UserError

PUBLISHED_COUNT = 19_446_759  # "19.4 M", with each doubly stored convolution once


def randomise(module: nn.Module, std: float = 0.1) -> nn.Module:
    """Weights that hide nothing: layers that start at zero would make every block the identity."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


def tiny(kind: str) -> nn.Module:
    if kind == "patch":
        return randomise(PatchVAE3D(channels=(8, 16), patches=((2, 2, 2), (2, 2, 2)), latent_channels=3))
    return randomise(VAE3D(channels=16, downsample=(4, 4, 4), norm=kind), std=0.05)


def decode_middle(autoencoder: nn.Module, latent: Tensor, halo: int, first: int, last: int) -> Tensor:
    """Frames of latents [first, last) from a window with `halo` neighbours on each side."""
    start = max(first - halo, 0)
    video = autoencoder.decode(latent[:, :, start : last + halo])
    f_t = autoencoder.temporal_factor
    return video[:, :, (first - start) * f_t : (last - start) * f_t]


def test_vae3d_gives_the_published_outputs(parity):
    known = load_file(parity("lvdm_autoencoder.safetensors"))
    model = VAE3D(channels=16, downsample=(2, 4, 4))
    model.load_state_dict({name: known[f"weights/{name}"] for name in model.state_dict()})
    with torch.no_grad():
        posterior = model.encode(known["video"])
        reconstruction = model.decode(known["latent"])
    assert relative_error(posterior.mean, known["mean"]) < 1e-5
    assert relative_error(posterior.logvar, known["logvar"]) < 1e-5
    assert relative_error(posterior.mode(), known["latent"]) < 1e-5
    assert relative_error(reconstruction, known["reconstruction"]) < 1e-5


def test_vae3d_has_the_published_names_shapes_and_count(parity):
    names = parity("README.md").parent.parent / "reference" / "lvdm_keys.json"
    if not names.exists():
        pytest.skip("no list of published names beside the parity files")
    published = json.loads(names.read_text())["short_sky"]
    prefix = "first_stage_model."
    shapes = {name.removeprefix(prefix): shape for name, shape in published.items() if name.startswith(prefix)}
    once = {name: shape for name, shape in shapes.items() if name.removesuffix(".weight") + ".conv.weight" not in shapes}
    with torch.device("meta"):
        ours = {name: list(weight.shape) for name, weight in VAE3D().state_dict().items()}
    assert ours == once


def test_vae3d_at_published_size_has_the_published_count():
    with torch.device("meta"):
        assert sum(weight.numel() for weight in VAE3D().parameters()) == PUBLISHED_COUNT


def test_the_light_layout_has_the_studied_size():
    with torch.device("meta"):
        model = PatchVAE3D()
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(0.55e6, rel=0.01)
    assert (model.temporal_factor, model.spatial_factor, model.latent_channels) == (4, 8, 4)


@pytest.mark.parametrize("kind", ["patch", "clip", "frame"])
def test_shapes_follow_the_factors(kind):
    model = tiny(kind)
    video = torch.rand(2, 3, 8, 16, 24) * 2 - 1
    with torch.no_grad():
        z = model.encode(video).mode()
        assert z.shape == (2, model.latent_channels, 2, 4, 6)
        assert model.decode(z).shape == video.shape


@pytest.mark.parametrize("kind", ["patch", "frame"])
@torch.no_grad()
def test_a_window_with_its_halo_equals_whole_decoding_and_a_smaller_halo_does_not(kind):
    model = tiny(kind).double()
    halo = model.decode_halo
    latent = torch.randn(1, model.latent_channels, 2 * halo + 6, 4, 4, dtype=torch.float64)
    first, last = halo + 2, halo + 4
    whole = model.decode(latent)[:, :, first * model.temporal_factor : last * model.temporal_factor]
    assert relative_error(decode_middle(model, latent, halo, first, last), whole) < 1e-12
    assert relative_error(decode_middle(model, latent, halo - 1, first, last), whole) > 1e-9


@pytest.mark.parametrize(("downsample", "halo"), [((4, 4, 4), 4), ((2, 4, 4), 6), ((1, 2, 2), 7), ((4, 8, 8), 6)])
@torch.no_grad()
def test_the_halo_of_frame_norm_is_how_far_a_changed_latent_reaches(downsample, halo):
    model = randomise(VAE3D(channels=16, downsample=downsample, norm="frame"), std=0.05).double()
    middle = 10
    latent = torch.randn(1, 4, 2 * middle + 1, 1, 1, dtype=torch.float64)
    changed = latent.clone()
    changed[:, :, middle] += 1
    difference = (model.decode(changed) - model.decode(latent)).abs().amax(dim=(0, 1, 3, 4))
    touched = (difference > 0).nonzero().flatten() // model.temporal_factor
    assert model.decode_halo == halo
    assert max(middle - touched.min(), touched.max() - middle) == halo


@torch.no_grad()
def test_the_norm_over_the_clip_sees_every_frame():
    model = tiny("clip").double()
    latent = torch.randn(1, 4, 24, 2, 2, dtype=torch.float64)
    changed = latent.clone()
    changed[:, :, -1] += 1
    assert model.decode_halo is None
    assert not torch.equal(model.decode(latent)[:, :, 0], model.decode(changed)[:, :, 0])


@torch.no_grad()
def test_norms_agree_on_a_single_frame():
    clip = randomise(VAE3D(channels=16, downsample=(1, 2, 2)), std=0.05)
    frame = VAE3D(channels=16, downsample=(1, 2, 2), norm="frame")
    frame.load_state_dict(clip.state_dict())
    video = torch.rand(1, 3, 1, 8, 8)
    torch.testing.assert_close(clip.encode(video).mean, frame.encode(video).mean)


@pytest.mark.parametrize("kind", ["patch", "clip"])
def test_checkpointing_changes_no_gradient(kind):
    plain = tiny(kind)
    recomputed = (
        PatchVAE3D(channels=(8, 16), patches=((2, 2, 2), (2, 2, 2)), latent_channels=3, checkpointing=True)
        if kind == "patch"
        else VAE3D(channels=16, downsample=(4, 4, 4), checkpointing=True)
    )
    recomputed.load_state_dict(plain.state_dict())
    video = torch.rand(2, 3, 4, 8, 8)
    for model in (plain, recomputed):
        model.train().decode(model.encode(video).mode()).square().mean().backward()
    for ours, theirs in zip(recomputed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@torch.no_grad()
def test_blocks_of_the_light_layout_start_as_the_identity():
    block = PatchVAE3D().down[0].blocks[0]
    x = torch.randn(1, 2, 3, 3, 32)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("latents", [1, 2, 3, 4])
def test_bf16_gradients_are_near_those_of_float32_however_short_the_clip(latents):
    """A convolution over two padded frames once gave the weights random memory; here memory is full of large numbers."""
    model, video = tiny("patch"), torch.randn(2, 3, 4 * latents, 16, 16)
    gradients = []
    for is_bf16 in (False, True):
        model.zero_grad()
        del [torch.full((size,), 1e20) for size in (24, 192, 288, 384, 576, 768, 1152) for _ in range(40)][:]
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            loss = model.decode(model.encode(video).mode()).float().square().mean()
        loss.backward()
        gradients.append(nn.utils.parameters_to_vector(p.grad for p in model.parameters() if p.grad is not None))
    assert relative_error(*reversed(gradients)) < 0.1


def test_a_video_that_does_not_divide_is_refused_in_words():
    with pytest.raises(UserError, match="6 frames of 16x16 do not divide into latents of 4 frames and 8x8 pixels"):
        PatchVAE3D().encode(torch.zeros(1, 3, 6, 16, 16))
    with pytest.raises(UserError, match="2 widths in channels and 1 patches"):
        PatchVAE3D(channels=(8, 8), patches=((2, 2, 2),))
    with pytest.raises(UserError, match=r"patch \[2, 4, 2\] is not"):
        PatchVAE3D(channels=(8,), patches=((2, 4, 2),))
    with pytest.raises(UserError, match="three powers of two"):
        VAE3D(downsample=(3, 8, 8))
    with pytest.raises(UserError, match="expected one of clip, frame"):
        VAE3D(norm="batch")


def test_kl_is_the_closed_form_and_zero_for_a_standard_normal():
    zero = torch.zeros(2, 3, 1, 2, 2)
    assert torch.equal(Posterior(zero, zero).kl(), torch.zeros(2))
    mean, sigma = 0.7, 0.3
    each = torch.distributions.kl_divergence(torch.distributions.Normal(mean, sigma), torch.distributions.Normal(0.0, 1.0))
    made = Posterior(zero + mean, zero + 2 * math.log(sigma)).kl()
    torch.testing.assert_close(made, torch.full((2,), 12 * each.item()))


def test_samples_have_the_posterior_moments_and_repeat_with_their_generator():
    posterior = Posterior(torch.full((1, 1, 40, 50, 50), 2.0), torch.full((1, 1, 40, 50, 50), 2 * math.log(0.5)))
    sample = posterior.sample(torch.Generator().manual_seed(3))
    assert sample.mean().item() == pytest.approx(2.0, abs=0.01)
    assert sample.std().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(sample, posterior.sample(torch.Generator().manual_seed(3)))


def test_logvar_is_clamped_as_published():
    posterior = Posterior.from_moments(torch.tensor([1.0, 90.0]).reshape(1, 2, 1, 1, 1))
    assert posterior.mean.item() == 1.0 and posterior.logvar.item() == 20.0


def test_the_autoencoder_that_is_imported_late_is_a_name_of_the_package():
    pytest.importorskip("diffusers", reason="the extra diffusers is not installed")
    from lvdm.models.autoencoders import DiffusersVAE

    assert issubclass(DiffusersVAE, nn.Module)
    with pytest.raises(ImportError, match="DiffuserVAE"):
        from lvdm.models.autoencoders import DiffuserVAE  # noqa: F401
