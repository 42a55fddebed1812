"""Autoencoders of diffusers as codecs: the same numbers as theirs, from Python and from YAML; and lvdm without diffusers."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLCogVideoX, AutoencoderKLLTXVideo
from tiny_codecs import write_codec

import lvdm
from lvdm.config import check_node, instantiate
from lvdm.models.autoencoders.diffusers_vae import DiffusersVAE
from lvdm.models.codec import Codec
from lvdm.types import UserError

IMAGE = {
    "block_out_channels": [32, 32],
    "norm_num_groups": 8,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}
COG = {
    **{"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4},
    **{"sample_height": 16, "sample_width": 16},
}
LTX = {
    **{"latent_channels": 8, "block_out_channels": [8, 8, 8, 8], "decoder_block_out_channels": [8, 8, 8, 8]},
    **{"layers_per_block": [1, 1, 1, 1, 1], "decoder_layers_per_block": [1, 1, 1, 1, 1]},
}
KINDS = {  # class, its settings, ours, frames of a video, its latents
    "image": (AutoencoderKL, IMAGE, {"latent_channels": 4, "spatial_factor": 2}, 3, 3),
    "CogVideoX": (AutoencoderKLCogVideoX, COG, {"latent_channels": 4, "temporal_factor": 4}, 9, 3),
    "LTX": (AutoencoderKLLTXVideo, LTX, {"latent_channels": 8, "spatial_factor": 32, "temporal_factor": 8}, 17, 3),
}


def node(kind: str) -> dict:
    network, settings, ours, _, _ = KINDS[kind]
    vae = {"target": f"diffusers.{network.__name__}", "params": settings}
    return {"target": "lvdm.models.autoencoders.DiffusersVAE", "params": {"vae": vae, **ours}}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_codec_gives_their_numbers_and_keeps_them_in_a_model_file(kind: str, tmp_path: Path) -> None:
    _, _, ours, frames, latents = KINDS[kind]
    check_node(node(kind), key="autoencoder", kind=torch.nn.Module)
    torch.manual_seed(0)
    codec = lvdm.load(write_codec(tmp_path / "codec.safetensors", node=node(kind), scale=0.5, shift=0.25)).codec
    side = 2 * codec.spatial_factor
    video = torch.rand(2, 3, frames, side, side) * 2 - 1
    latent = codec.encode(video)
    assert latent.shape == (2, ours["latent_channels"], latents, 2, 2) == (2, *codec.latent_shape(frames, side, side))
    vae = codec.autoencoder.vae
    if kind == "image":
        theirs = torch.stack([vae.encode(video[:, :, t]).latent_dist.mean for t in range(frames)], dim=2)
        pictures = torch.stack([vae.decode(theirs[:, :, t]).sample for t in range(frames)], dim=2)
    else:
        theirs = vae.encode(video).latent_dist.mean
        pictures = vae.decode(theirs).sample
    torch.testing.assert_close(latent, 0.5 * (theirs + 0.25))
    torch.testing.assert_close(codec.decode(latent), pictures, rtol=1e-4, atol=1e-4)
    assert pictures.shape == video.shape and codec.frames_of(latents) == frames


@torch.no_grad()
def test_an_image_autoencoder_decodes_in_windows_exactly_and_a_video_one_with_a_warning(caplog) -> None:
    torch.manual_seed(0)
    image = Codec(instantiate(node("image")), decode_window=2)
    latent = torch.randn(1, 4, 5, 2, 2)
    streamed = torch.cat(list(image.decode_stream(latent.split(1, dim=2))), dim=2)
    torch.testing.assert_close(streamed, image.decode(latent), rtol=1e-4, atol=1e-5)
    video = Codec(instantiate(node("CogVideoX")), decode_window=12)
    with caplog.at_level(logging.WARNING):
        chunks = list(video.decode_stream([torch.randn(1, 4, 14, 1, 1)]))
    assert sum(chunk.shape[2] for chunk in chunks) == video.frames_of(14) == 53 and "no exact decode_halo" in caplog.text


def test_the_fingerprint_covers_their_settings_but_not_how_they_are_written() -> None:
    def fingerprint(**changes: object) -> str:
        torch.manual_seed(0)
        return Codec(DiffusersVAE(AutoencoderKL(**{**IMAGE, **changes}), latent_channels=4, spatial_factor=2)).fingerprint()

    assert fingerprint() == fingerprint(act_fn="silu", block_out_channels=(32, 32)) != fingerprint(act_fn="gelu")


def test_wrong_factors_and_networks_are_refused() -> None:
    wrong = Codec(DiffusersVAE(AutoencoderKL(**IMAGE), latent_channels=4, spatial_factor=4))
    with pytest.raises(UserError, match="makes latents .* of .4, 1, 4, 4., its factors say .4, 1, 2, 2."):
        wrong.encode(torch.zeros(1, 3, 1, 8, 8))
    with pytest.raises(UserError, match="Linear has no encode and decode"):
        DiffusersVAE(torch.nn.Linear(1, 1), latent_channels=4)
    with pytest.raises(UserError, match=r"vae.target is lvdm.models.denoisers.DiT3D, expected"):
        odd = {**node("image")["params"], "vae": {"target": "lvdm.models.denoisers.DiT3D"}}
        check_node({**node("image"), "params": odd}, key="autoencoder", kind=torch.nn.Module)


@pytest.mark.parametrize("target", ["diffusers.AutoencoderKL", "lvdm.models.autoencoders.DiffusersVAE"])
def test_without_diffusers_a_config_that_needs_it_says_so(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "lvdm.models.autoencoders.diffusers_vae")
    with pytest.raises(UserError, match=f"target is .*{target.rpartition('.')[2]}.*diffusers.*install"):
        check_node({"target": target}, key="autoencoder", kind=torch.nn.Module)


def test_nothing_imports_diffusers_unless_a_config_names_it() -> None:
    code = "import sys; sys.modules['diffusers'] = None; import lvdm.api, lvdm.cli.train, lvdm.cli.encode, lvdm.cli.eval; "
    code += "from lvdm.config.targets import import_class; import_class('lvdm.models.autoencoders.VAE3D')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
