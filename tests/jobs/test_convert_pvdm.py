"""`scripts/convert.py --from pvdm`: published names with any prefix give the published numbers; every key is accounted for."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_planes import AE_TABLES, relative_error

from lvdm.cli.convert import main
from lvdm.jobs.load import load
from lvdm.jobs.sample import sample
from lvdm.models.autoencoders import TriplaneAE
from lvdm.types import Condition

TINY = {"channels": 16, "depth": 1, "num_heads": 2, "head_width": 8, "projector_depth": 1}


def codec(**params: int) -> str:
    autoencoder = {"target": "lvdm.models.autoencoders.TriplaneAE", "params": params}
    return json.dumps({"target": "lvdm.models.codec.Codec", "params": {"autoencoder": autoencoder}})


DATA = """
data:
  target: lvdm.data.VideoData
  params: {train: {target: lvdm.data.VideoFolder, params: {root: videos, num_frames: 16, size: 32}}, batch_size: 1}
trainer: {}
"""
AUTOENCODER = f"model: {{target: lvdm.training.AutoencoderTraining, params: {{codec: {codec(size=32, channels=64)}}}}}{DATA}"
DIFFUSION = f"""
model:
  target: lvdm.training.LatentDiffusion
  params:
    codec: {codec(size=64, patch=2, **TINY)}
    denoiser:
      target: lvdm.models.denoisers.TriplaneUNet
      params: {{model_channels: 32, channel_mult: [1, 2, 2], num_res_blocks: 1, num_heads: 4}}
    schedule: {{target: lvdm.diffusion.schedules.SqrtLinear}}
    objective: {{target: lvdm.diffusion.objectives.EpsObjective}}
    num_latents: 1
{DATA}
sampling: {{latent_shape: [4, 2048]}}
"""
RECORDED = {"autoencoder": "pvdm_autoencoder", "denoiser": "pvdm_unet"}


def checkpoint(parity, folder: Path, part: str, prefix: str = "", **changes: torch.Tensor | None) -> Path:
    """A file as the published code writes it: a plain dictionary of weights; None takes one out."""
    known = load_file(parity(f"{RECORDED[part]}.safetensors"))
    weights = {name.removeprefix("weights/"): tensor for name, tensor in known.items() if name.startswith("weights/")}
    weights = {name: tensor for name, tensor in {**weights, **changes}.items() if tensor is not None}
    torch.save({prefix + name: tensor for name, tensor in weights.items()}, folder / f"{part}.pth")
    return folder / f"{part}.pth"


def untrained_autoencoder(folder: Path) -> Path:
    """The recorded one has 4 x 4 latents, and the recorded denoiser is for 32 x 32."""
    torch.save(TriplaneAE(size=64, patch=2, **TINY).state_dict(), folder / "autoencoder.pth")
    return folder / "autoencoder.pth"


def run_convert(folder: Path, config: str, *arguments: str | Path) -> int:
    (folder / "config.yaml").write_text(config)
    start = ("--from", "pvdm", "--config", folder / "config.yaml", "--out", folder / "model.safetensors", "--force")
    return main([str(argument) for argument in (*start, *arguments)])


@pytest.mark.parametrize("prefix", ["", "module."])
@torch.no_grad()
def test_a_converted_autoencoder_gives_the_published_numbers(parity, tmp_path, prefix):
    told = tmp_path / "told.json"
    assert run_convert(tmp_path, AUTOENCODER, checkpoint(parity, tmp_path, "autoencoder", prefix), "--json", told) == 0
    assert set(json.loads(told.read_text())["left_out"]) == {prefix + name for name in ("coords", *AE_TABLES)}
    known, model = load_file(parity("pvdm_autoencoder.safetensors")), load(tmp_path / "model.safetensors")
    assert relative_error(model.codec.encode(known["video"]), known["latent"]) < 1e-5
    assert relative_error(model.codec.decode(known["latent"]), known["reconstruction"]) < 1e-5


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "module.diffusion_model."])
@torch.no_grad()
def test_a_converted_denoiser_gives_the_published_numbers_and_samples(parity, tmp_path, prefix):
    denoiser, autoencoder = checkpoint(parity, tmp_path, "denoiser", prefix), untrained_autoencoder(tmp_path)
    told = tmp_path / "told.json"
    assert run_convert(tmp_path, DIFFUSION, denoiser, "--autoencoder", autoencoder, "--json", told) == 0
    assert f"{prefix}zeros" in json.loads(told.read_text())["left_out"]
    known, model = load_file(parity("pvdm_unet.safetensors")), load(tmp_path / "model.safetensors")
    made = model.denoiser(known["x"], known["t"], Condition(previous=known["cond"]))
    assert relative_error(made, known["eps_cond"]) < 1e-5
    if not prefix:
        assert sample(model, 2, steps=2).videos.shape == (2, 16, 64, 64, 3)


def test_every_key_is_used_dropped_or_an_error(parity, tmp_path, capsys):
    coarse, tables = torch.linspace(1, 0, 32), AE_TABLES[0]
    for part, changes, sentence in [
        ("autoencoder", {"extra.weight": torch.ones(1)}, "1 unexpected (first extra.weight, 1)"),
        ("autoencoder", {"xy_token": None}, "1 missing (first xy_token, 1x1x64)"),
        ("autoencoder", {"xy_token": torch.ones(1, 1, 32)}, "xy_token, 1x1x32 in the file, 1x1x64 built"),
        ("autoencoder", {tables: coarse}, f"{tables} in the checkpoint is not the table that PVDM has there"),
        ("autoencoder", {"coords": torch.tensor(0.0)}, "coords in the checkpoint is not the table"),
        ("denoiser", {"zeros": torch.ones(1, 4, 2048)}, "zeros in the checkpoint is not the table"),
        ("denoiser", {"label_emb.weight": torch.ones(3, 128)}, "1 unexpected (first label_emb.weight, 3x128)"),
    ]:
        extra = ("--autoencoder", untrained_autoencoder(tmp_path)) if part == "denoiser" else ()
        config = DIFFUSION if part == "denoiser" else AUTOENCODER
        assert run_convert(tmp_path, config, checkpoint(parity, tmp_path, part, **changes), *extra) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, said
        assert not (tmp_path / "model.safetensors").exists()


def test_the_wrong_file_is_named(parity, tmp_path, capsys):
    autoencoder, denoiser = untrained_autoencoder(tmp_path), checkpoint(parity, tmp_path, "denoiser")
    assert run_convert(tmp_path, DIFFUSION, denoiser) == 2
    assert "holds no autoencoder (encoder.*), but names that begin with" in capsys.readouterr().err
    assert run_convert(tmp_path, DIFFUSION, autoencoder, "--autoencoder", autoencoder) == 2
    assert "holds no denoiser (input_blocks.*)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("sampling.latent_shape=[4,144]", "latent_shape in the config is (4, 144), and its autoencoder's latents are (4, 2048)"),
        ("sampling.latent_shape=[4,16,32,32]", "is (4, 16, 32, 32), and its autoencoder's latents are (4, 2048)"),
        ("model.params.denoiser.params.planes=[32,16,32]", "is for Planes(frames=32, height=16, width=32), and the autoencoder"),
    ],
)
def test_networks_for_other_latents_are_refused(parity, tmp_path, capsys, change, sentence):
    denoiser, autoencoder = checkpoint(parity, tmp_path, "denoiser"), untrained_autoencoder(tmp_path)
    (tmp_path / "config.yaml").write_text(DIFFUSION)
    start = ["--from", "pvdm", denoiser, "--autoencoder", autoencoder, "--out", tmp_path / "out", "--config"]
    assert main([str(argument) for argument in (*start, tmp_path / "config.yaml", change)]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "out").exists()
