"""The codec: streamed against whole decoding, scale and shift, what stays frozen."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lvdm.models.autoencoders import VAE3D, PatchVAE3D
from lvdm.models.codec import Codec, LatentMoments
from lvdm.types import UserError, VideoCodec


def patch_codec(**options: float) -> Codec:
    torch.manual_seed(0)
    model = PatchVAE3D(channels=(4, 8), patches=((2, 2, 2), (2, 1, 1)), latent_channels=2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return Codec(model.double(), **options)


CODEC = patch_codec(scale=0.7, shift=0.2, decode_window=3)


@st.composite
def chunked_latents(draw: st.DrawFn) -> list[Tensor]:
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=8))
    latent = torch.randn(1, 2, sum(sizes), 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(sizes)))
    return list(latent.split(sizes, dim=2))


@settings(max_examples=60, deadline=None)
@given(chunks=chunked_latents(), window=st.integers(1, 9))
def test_streamed_decoding_equals_whole_decoding_for_any_chunks(chunks, window):
    CODEC.decode_window = window
    streamed = list(CODEC.decode_stream(chunks))
    whole = CODEC.decode(torch.cat(chunks, dim=2))
    torch.testing.assert_close(torch.cat(streamed, dim=2), whole, rtol=1e-10, atol=1e-10)
    assert whole.shape[2] == CODEC.temporal_factor * sum(chunk.shape[2] for chunk in chunks)


def test_streaming_reads_no_further_than_a_window_and_its_halo():
    codec = patch_codec(decode_window=4)
    read = 0

    def source():
        nonlocal read
        for _ in range(1000):
            read += 1
            yield torch.zeros(1, 2, 1, 2, 2, dtype=torch.float64)

    for made, frames in enumerate(codec.decode_stream(source()), start=1):
        assert frames.shape[2] == 4 * codec.temporal_factor
        assert read <= 4 * made + codec.autoencoder.decode_halo + 1
    assert made == 250


def test_no_latents_make_no_frames():
    assert list(CODEC.decode_stream([])) == []


@torch.no_grad()
def test_norms_over_the_clip_warn_once_when_windows_are_needed_and_are_exact_in_one_window(caplog):
    model = VAE3D(channels=16, downsample=(1, 2, 2))
    codec = Codec(model, decode_window=4)
    latent = torch.randn(1, 4, 30, 2, 2)
    with caplog.at_level(logging.WARNING):
        one = list(codec.decode_stream([latent[:, :, :4]]))
        assert not caplog.records
        torch.testing.assert_close(one[0], codec.decode(latent[:, :, :4]))
        for _ in range(2):
            list(codec.decode_stream(latent.split(7, dim=2)))
    assert len(caplog.records) == 1


def test_decoding_undoes_the_scale_and_shift():
    plain, scaled = patch_codec(), patch_codec(scale=0.33422927, shift=1.4606637)
    video = torch.rand(1, 3, 8, 4, 4, dtype=torch.float64)
    raw, latent = plain.encode(video), scaled.encode(video)
    torch.testing.assert_close(latent, 0.33422927 * (raw + 1.4606637))
    torch.testing.assert_close(scaled.decode(latent), plain.decode(raw))


def test_scale_and_shift_keep_every_digit_through_bfloat16_and_the_state_dict():
    codec = patch_codec(scale=0.33422927, shift=1.4606637).to(torch.bfloat16)
    assert (codec.scale, codec.shift) == (0.33422927, 1.4606637)
    other = patch_codec()
    other.load_state_dict(codec.state_dict())
    assert (other.scale, other.shift) == (0.33422927, 1.4606637)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_codec_gives_the_dtype_of_its_parameters(dtype):
    codec = patch_codec().to(dtype)
    latent = codec.encode(torch.zeros(1, 3, 4, 4, 4))
    assert latent.dtype == dtype and codec.decode(latent.double()).dtype == dtype


def test_autocast_changes_neither_dtype_nor_the_latents_much():
    codec = patch_codec(scale=0.7, shift=0.2).float()
    video = torch.rand(1, 3, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        latent = codec.encode(video)
    assert latent.dtype == torch.float32
    plain = codec.encode(video)
    assert 0 < (latent - plain).norm() < 0.05 * plain.norm()


def test_the_codec_stays_frozen_inside_a_training_module():
    codec = patch_codec().float()
    nn.ModuleList([codec]).train()
    assert not any(module.training for module in codec.modules())
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    video = torch.zeros(1, 3, 4, 4, 4, requires_grad=True)
    assert not codec.encode(video).requires_grad
    assert not next(codec.decode_stream([torch.zeros(1, 2, 2, 2, 2, requires_grad=True)])).requires_grad


def test_it_is_a_video_codec_that_knows_its_shapes():
    assert isinstance(CODEC, VideoCodec)
    assert CODEC.latent_shape(16, 64, 32) == (2, 4, 32, 16)
    with pytest.raises(UserError, match="15 frames"):
        CODEC.latent_shape(15, 64, 32)


def test_fingerprints_tell_weights_and_scales_apart():
    assert patch_codec().fingerprint() == patch_codec().fingerprint()
    changed = patch_codec()
    changed.autoencoder.moments.weight.data[0, 0] += 1e-9
    others = [changed, patch_codec(scale=1.1), patch_codec(shift=1.0)]
    assert len({codec.fingerprint() for codec in [patch_codec(), *others]}) == 4


def test_fingerprints_tell_settings_apart_that_leave_the_weights_alone():
    codecs = []
    for norm in ("clip", "frame"):
        torch.manual_seed(0)
        codecs.append(Codec(VAE3D(channels=16, downsample=(2, 2, 2), norm=norm)))
    video = torch.rand(1, 3, 4, 8, 8)
    assert not torch.equal(codecs[0].encode(video), codecs[1].encode(video))
    assert codecs[0].fingerprint() != codecs[1].fingerprint()
    patches = [Codec(PatchVAE3D((8,), [patch]).requires_grad_(False)) for patch in ((4, 2, 2), (1, 4, 4))]
    for parameter in [*patches[0].parameters(), *patches[1].parameters()]:
        parameter.zero_()
    assert patches[0].fingerprint() != patches[1].fingerprint()


def test_the_fingerprint_of_version_1_is_as_it_was():
    """A hash made by lvdm 0.1: caches of that version are still read."""
    model = PatchVAE3D(channels=(4,), patches=((2, 2, 2),), blocks=0, latent_channels=1).requires_grad_(False)
    for parameter in model.parameters():
        parameter.fill_(0.5)
    assert Codec(model, scale=0.5, shift=0.25).fingerprint_of_version_1() == "4506f58ac5b0c3ed330259caa3648dbf"


def test_an_autoencoder_that_lacks_a_part_of_the_contract_is_refused_with_all_that_is_missing():
    class Half(nn.Linear):
        temporal_factor, latent_channels = 2, 4

        def encode(self, video):
            return video

    with pytest.raises(UserError, match="Half is no VideoAutoencoder: it lacks spatial_factor, decode_halo, decode; add"):
        Codec(Half(1, 1))


def test_latents_of_another_shape_than_the_factors_say_are_refused():
    codec = patch_codec().float()
    codec.autoencoder.latent_channels = 5
    with pytest.raises(UserError, match=r"latents \(c, n, h, w\) of \(2, 1, 2, 2\), its factors say \(5, 1, 2, 2\)"):
        codec.encode(torch.zeros(1, 3, 4, 4, 4))


def test_the_measured_scale_normalises_and_ranks_add_up():
    latents = [torch.randn(5, 4, 2, 3, 3, generator=torch.Generator().manual_seed(i)) * 3 + 7 for i in range(6)]
    scale, shift = LatentMoments().add(torch.stack(latents)).latent_scale()
    normal = scale * (torch.cat(latents).double() + shift)
    assert normal.mean().item() == pytest.approx(0, abs=1e-9)
    assert normal.std(correction=0).item() == pytest.approx(1, abs=1e-9)
    ranks = [LatentMoments().add(latents[i]).add(latents[i + 3]) for i in range(3)]
    merged = ranks[0].merge(ranks[1]).merge(ranks[2]).latent_scale()
    assert merged == pytest.approx((scale, shift), rel=1e-12)


def test_a_scale_that_cannot_be_measured_is_an_error():
    with pytest.raises(UserError, match="no latents"):
        LatentMoments().latent_scale()
    with pytest.raises(UserError, match="all videos the same latent"):
        LatentMoments().add(torch.full((4,), 3.0)).latent_scale()
    with pytest.raises(UserError, match="must be finite"):
        patch_codec(scale=float("nan"))


# What is encoded ---------------------------------------------------------------------------------------------------------


def test_uint8_frames_are_videos() -> None:
    """The answer is that of the same video as floats: level 0 is -1, level 255 is 1."""
    levels = np.random.default_rng(0).integers(0, 256, (2, 8, 4, 4, 3)).astype(np.uint8)
    floats = torch.from_numpy(levels.transpose(0, 4, 1, 2, 3).astype(np.float32) / np.float32(127.5) - 1)
    for video in (levels, torch.from_numpy(levels)):
        assert torch.equal(CODEC.encode(video), CODEC.encode(floats))
        assert torch.equal(CODEC.encode(video[0]), CODEC.encode(floats[:1]))
    assert torch.equal(CODEC.encode(floats.numpy()), CODEC.encode(floats))


@pytest.mark.parametrize("video", [
    *(torch.zeros(shape, dtype=torch.uint8) for shape in [(1, 3, 8, 4, 4), (3, 8, 4, 4), (8, 4, 4), (8, 4, 4, 1)]),
    *(np.zeros((1, 3, 8, 4, 4), np.uint8), torch.zeros(1, 3, 8, 4, 4, dtype=torch.long), np.zeros((8, 4, 4, 3), bool)),
    *(torch.zeros(3, 8, 4, 4), torch.zeros(8, 4, 4, 3), np.zeros((8, 4, 4, 3), np.float32)),
    *(None, 3, [[1, 2]], "clip.mp4", np.array(["a"])),
], ids=lambda video: f"{type(video).__name__} {getattr(video, 'dtype', '')} {tuple(getattr(video, 'shape', ()))}")  # fmt: skip
def test_what_is_no_video_is_refused_in_a_sentence(video: object) -> None:
    with pytest.raises(UserError, match="shaped|floats in") as refused:
        CODEC.encode(video)
    assert len(str(refused.value)) < 300
