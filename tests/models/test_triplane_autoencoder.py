"""TriplaneAE and the planes: published numbers and names, any sizes, the codec around it."""

import json

import pytest
import torch
from tiny_planes import AE_TABLES, RECORDED_AE, check_golden, filled, recorded, relative_error, tiny_ae, wave

from lvdm.models.autoencoders import TriplaneAE
from lvdm.models.codec import Codec
from lvdm.planes import Planes, pack
from lvdm.types import UserError, video_shape


@torch.no_grad()
def test_it_gives_the_published_outputs(parity):
    model, known = recorded(TriplaneAE(**RECORDED_AE), parity("pvdm_autoencoder.safetensors"))
    assert relative_error(model.encode(known["video"]).mode(), known["latent"]) < 1e-5
    assert relative_error(model.decode(known["latent"]), known["reconstruction"]) < 1e-5


@torch.no_grad()
def test_it_gives_the_golden_numbers(parity):
    golden = json.loads(parity("pvdm_golden.json").read_text())["pvdm_ae_small"]
    model = filled(TriplaneAE(**RECORDED_AE), ["coords", *AE_TABLES])
    latent = model.encode(wave(0.013, 1, 3, 16, 32, 32)).mode()
    check_golden(latent, golden["latent"])
    check_golden(model.decode(latent)[0].transpose(0, 1), golden["recon"])  # the published code has the frames first


def test_it_has_the_published_names_shapes_and_count(parity):
    names = parity("README.md").parent.parent / "reference" / "pvdm_ae_keys.json"
    if not names.exists():
        pytest.skip("no list of published names next to the parity files")
    with torch.device("meta"):
        ours = {name: list(weight.shape) for name, weight in TriplaneAE().state_dict().items()}
    published = json.loads(names.read_text())
    assert ours == {name: shape for name, shape in published.items() if name not in ("coords", *AE_TABLES)}


def test_the_published_size_has_the_published_count():
    with torch.device("meta"):
        assert sum(weight.numel() for weight in TriplaneAE().parameters()) == 62_064_399


@pytest.mark.parametrize(("frames", "height", "width", "patch"), [(4, 16, 24, 4), (5, 12, 6, 2), (1, 8, 8, 8), (8, 8, 8, 1)])
@torch.no_grad()
def test_without_a_trunk_each_location_of_a_plane_is_one_line_of_patches(frames, height, width, patch):
    """With other sizes than the published ones: a patch of pixels reaches its three locations, and they reach their lines."""
    model = tiny_ae(frames, height, width, patch, depth=0).double()
    video = torch.randn(1, 3, frames, height, width, dtype=torch.float64)
    t, h, w = frames // 2, height // patch - 1, width // patch // 2
    changed = video.clone()
    changed[:, :, t, h * patch : (h + 1) * patch, w * patch : (w + 1) * patch] += 1
    latents = [model.planes.split(model.encode(each).mode()) for each in (video, changed)]
    touched = [(one != other).any(dim=1)[0].nonzero().tolist() for one, other in zip(*latents, strict=True)]
    assert touched == [[[h, w]], [[t, w]], [[t, h]]]
    locations, lines = [(h, w), (t, w), (t, h)], [(slice(None), h, w), (t, slice(None), w), (t, h, slice(None))]
    for plane, (location, line) in enumerate(zip(locations, lines, strict=True)):
        planes = [each.clone() for each in latents[0]]
        planes[plane][:, :, location[0], location[1]] += 1
        pixels = (model.decode(pack(planes)) != model.decode(pack(latents[0]))).any(dim=1)[0]
        patches = pixels.unflatten(2, (-1, patch)).unflatten(1, (-1, patch)).any(dim=4).any(dim=2)
        expected = torch.zeros_like(patches)
        expected[line] = True
        assert torch.equal(patches, expected)


@pytest.mark.parametrize("sizes", [(4, 16, 24, 4), (3, 32, 8, 8)])
@torch.no_grad()
def test_any_size_that_divides_works_and_every_frame_reaches_every_pixel(sizes):
    model = tiny_ae(*sizes)
    frames, height, width, patch = sizes
    video = torch.randn(2, 3, frames, height, width)
    latent = model.encode(video).mode()
    assert latent.shape == (2, 3, Planes(frames, height // patch, width // patch).length) and latent.abs().max() < 1
    made = model.decode(latent)
    assert made.shape == video.shape and made.abs().max() <= 1
    changed = video.clone()
    changed[0, :, 0, 0, 0] += 10
    assert (model.decode(model.encode(changed).mode())[0] != made[0]).any(dim=0).all()
    assert torch.allclose(model.decode(model.encode(changed).mode())[1], made[1])


def test_planes_split_as_they_were_packed():
    planes = Planes(frames=2, height=3, width=4)
    latent = torch.arange(2.0 * 5 * planes.length).reshape(2, 5, planes.length)
    xy, yt, xt = planes.split(latent)
    assert (xy.shape[2:], yt.shape[2:], xt.shape[2:]) == ((3, 4), (2, 4), (2, 3))
    assert xy[0, 0, 1, 2] == 1 * 4 + 2 and yt[0, 0, 1, 2] == 12 + 1 * 4 + 2 and xt[0, 0, 1, 2] == 12 + 8 + 1 * 3 + 2
    assert torch.equal(pack((xy, yt, xt)), latent)
    with pytest.raises(UserError, match=r"\(2, 5, 25\), the planes of 2 frames of 3 x 4 are \(b, c, 26\)"):
        planes.split(latent[:, :, 1:])


EQUAL = [((2, 4, 4), (1, 2)), ((4, 4, 2), (2, 1)), ((4, 4, 4), (3,)), ((2, 4, 6), (1, 1, 1)), ((4, 2, 4), (1, 1, 1))]


@pytest.mark.parametrize(("sizes", "stacks"), EQUAL)
def test_planes_of_equal_shape_are_stacked(sizes, stacks):
    planes = Planes(*sizes)
    latent = torch.randn(2, 3, planes.length)
    made = planes.stack(latent)
    assert planes.stacks == stacks and [len(each) for each in made] == [2 * k for k in stacks]
    assert torch.equal(planes.unstack(made), latent)
    assert torch.equal(torch.cat([each.flatten() for each in made]), torch.cat([each.flatten() for each in planes.split(latent)]))


def test_checkpointing_changes_no_gradient():
    plain, recomputed = tiny_ae(), tiny_ae(checkpointing=True)
    recomputed.load_state_dict(plain.state_dict())
    video = torch.rand(2, 3, 4, 16, 24)
    for model in (plain, recomputed):
        model.train().decode(model.encode(video).mode()).square().mean().backward()
    for ours, theirs in zip(recomputed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@torch.no_grad()
def test_it_is_near_in_bfloat16():
    model, video = tiny_ae(), torch.randn(1, 3, 4, 16, 24)
    reference = model.decode(model.encode(video).mode())
    half = model.bfloat16()
    assert relative_error(half.decode(half.encode(video.bfloat16()).mode()).float(), reference) < 0.05


@torch.no_grad()
def test_a_codec_codes_clips_as_planes():
    model = tiny_ae()
    codec = Codec(model, scale=2.0, shift=0.5)
    clips = torch.randn(2, 1, 3, 4, 16, 24)
    latents = [codec.encode(clip) for clip in clips]
    assert codec.latent_shape(4, 16, 24) == latents[0].shape[1:] == (3, 64)
    assert torch.allclose(latents[0], 2 * (model.encode(clips[0]).mode() + 0.5))
    assert video_shape(codec, codec.latent_shape(4, 16, 24)) == (4, 16, 24)
    assert not codec.moments(clips[0])[1].any()  # no noise
    assert (codec.latents_of(11), codec.frames_of(2)) == (2, 8)
    stream = torch.cat(list(codec.decode_stream(iter(latents))), dim=2)
    assert torch.equal(stream, torch.cat([codec.decode(latent) for latent in latents], dim=2))
    assert torch.allclose(codec.decode(latents[0]), model.decode(model.encode(clips[0]).mode()), atol=1e-6)
    assert codec.fingerprint() != Codec(tiny_ae(num_heads=4, head_width=4)).fingerprint()


def test_what_does_not_fit_is_refused_in_words():
    with pytest.raises(UserError, match="8 frames of 16x24, and this autoencoder takes clips of 4 frames of 16x24; cut it"):
        tiny_ae().encode(torch.zeros(1, 3, 8, 16, 24))
    with pytest.raises(UserError, match="patches of 8 pixels do not divide clips of 100 x 128"):
        TriplaneAE((100, 128))
    with pytest.raises(UserError, match="channels 12 and head_width 64 must be multiples of 8 and of 4"):
        TriplaneAE(channels=12)
    with pytest.raises(UserError, match="size is "):
        TriplaneAE([32])
