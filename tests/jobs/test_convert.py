"""`scripts/convert.py`: published checkpoints to model files that give the published numbers; what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lvdm.checkpoints.foreign import read_checkpoint
from lvdm.checkpoints.model_file import read_model
from lvdm.checkpoints.published_lvdm import state_dict
from lvdm.cli.convert import main
from lvdm.jobs.convert import convert
from lvdm.jobs.load import load
from lvdm.types import UserError

AUTOENCODER = "{target: lvdm.models.autoencoders.VAE3D, params: {channels: 16, downsample: [2, 4, 4]}}"
CONFIG = f"""
model:
  target: lvdm.training.LatentDiffusion
  params:
    codec:
      target: lvdm.models.codec.Codec
      params:
        autoencoder: {AUTOENCODER}
        scale: 0.33422927
        shift: 1.4606637
    denoiser:
      target: lvdm.models.denoisers.UNet3D
      params: {{model_channels: 32, channel_mult: [1, 2], num_res_blocks: 1, attention_resolutions: [2, 1], temporal_length: 4}}
    schedule: {{target: lvdm.diffusion.schedules.SqrtLinear}}
    objective: {{target: lvdm.diffusion.objectives.EpsObjective}}
    num_latents: 4
data:
  target: lvdm.data.VideoData
  params: {{train: {{target: lvdm.data.VideoFolder, params: {{root: videos, num_frames: 8, size: 32}}}}, batch_size: 1}}
trainer: {{}}
sampling: {{latent_shape: [4, 4, 8, 8]}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "short.yaml"
    path.write_text(CONFIG)
    return path


def run_convert(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def test_a_converted_checkpoint_gives_the_published_numbers(parity, config, tmp_path):
    out, told = tmp_path / "short.safetensors", tmp_path / "told.json"
    assert run_convert("--from", "lvdm", parity("lvdm_short.ckpt"), "--config", config, "--out", out, "--json", told) == 0
    assert json.loads(told.read_text())["left_out"].count("betas") == 1
    known = load_file(parity("lvdm_short_sampling.safetensors"))
    model = load(out)
    with torch.no_grad():
        eps = model.denoiser(known["x_T"], known["t"])
        video = model.codec.decode(known["ddim10_eta0_latent"])
    assert ((eps - known["eps_ema"]).norm() / known["eps_ema"].norm()).item() < 1e-5
    assert ((video - known["video"]).norm() / known["video"].norm()).item() < 1e-5
    assert (model.codec.scale, model.codec.shift) == (0.33422927, 1.4606637)


def test_raw_weights_are_the_last_steps(parity, config, tmp_path):
    out = tmp_path / "raw.safetensors"
    assert run_convert("--from", "lvdm", parity("lvdm_short.ckpt"), "--config", config, "--out", out, "--raw") == 0
    weights = state_dict(read_checkpoint(parity("lvdm_short.ckpt")))
    assert torch.equal(read_model(out)[1]["denoiser.out.2.weight"], weights["model.diffusion_model.out.2.weight"])


def test_what_cannot_be_converted_is_one_sentence_and_leaves_no_file(parity, config, tmp_path, capsys):
    checkpoint, out = parity("lvdm_short.ckpt"), tmp_path / "out.safetensors"
    start = ("--from", "lvdm", checkpoint, "--out", out, "--config", config)
    denoiser = "model.params.denoiser.params"
    for options, sentence in [
        ((f"{denoiser}.model_channels=64",), "do not fit the UNet3D that the config builds"),
        ((f"{denoiser}.mask_channel=true",), "input_blocks.0.0.weight, 32x4x1x3x3 in the file, 32x5x1x3x3 built"),
        ((f"model.params.codec.params={{autoencoder: {AUTOENCODER}}}",), "does not say model.params.codec.params.scale"),
        (("sampling=null",), "no sampling section"),
        ((f"{denoiser}.modle_channels=64",), "model_channels"),
        (("--autoencoder", tmp_path / "absent.ckpt"), "there is no checkpoint file"),
    ]:
        assert run_convert(*start, *options) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, said
        assert not out.exists()
    out.touch()
    assert run_convert(*start) == 2 and "exists already" in capsys.readouterr().err


def test_python_converts_to_the_same_file(parity, config, tmp_path):
    checkpoint, outs = parity("lvdm_short.ckpt"), (tmp_path / "command.safetensors", tmp_path / "python.safetensors")
    told = tmp_path / "told.json"
    assert run_convert("--from", "lvdm", checkpoint, "--config", config, "--raw", "--out", outs[0], "--json", told) == 0
    made = convert(checkpoint, config=config, out=outs[1], raw=True)
    (command_info, command_tensors), (info, tensors) = map(read_model, outs)
    assert info == command_info and tensors.keys() == command_tensors.keys() and info.config["average"] == 0
    assert all(torch.equal(tensors[name], command_tensors[name]) for name in tensors)
    report = json.loads(told.read_text())
    assert (report["parameters"], report["left_out"]) == (made.parameters, list(made.left_out))
    with pytest.raises(UserError, match="trainer.logger is given by lvdm itself"):
        convert(checkpoint, config=config, overrides={"trainer.logger": False}, out=tmp_path / "other")


def test_an_unknown_family_is_refused(config, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_convert("--from", "gvdm", "x.ckpt", "--config", config, "--out", tmp_path / "out")
    assert stopped.value.code == 2 and "invalid choice: 'gvdm' (choose from" in capsys.readouterr().err
