"""Each verb gives the same from Python and from its command; what a run and a model file keep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import autoencoder_config, diffusion_config, video_set, write_config

import lvdm
from lvdm.checkpoints.model_file import read_info
from lvdm.cli import encode as encode_command
from lvdm.cli import train as train_command
from lvdm.data import VideoFolder
from lvdm.diffusion.objectives import VObjective
from lvdm.diffusion.schedules import Cosine
from lvdm.jobs.check_data import check_data
from lvdm.jobs.dry_run import dry_run
from lvdm.jobs.encode import EncodeSettings, encode, encode_config
from lvdm.jobs.load import load
from lvdm.jobs.run_config import RunConfig
from lvdm.jobs.save import save
from lvdm.jobs.settings import as_words, read_settings
from lvdm.jobs.train import train
from lvdm.models.codec import Codec
from lvdm.sampling.pipeline import SamplingSettings, VideoModel
from lvdm.types import Condition, DenoiserInputs, UserError


def same_model(one: Path, other: Path) -> bool:
    """Equal tensors and descriptions; the order of a safetensors file's metadata is arbitrary."""
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) and read_info(one) == read_info(other)


def test_python_and_the_command_train_the_same_weights(made: Path, tmp_path: Path) -> None:
    config = diffusion_config(made / "latents", tmp_path / "a", made / "autoencoder" / "model.safetensors")
    steps = {"trainer.max_steps": 3, "model.params.optimizer": {"target": "lvdm.training.Muon"}}
    file = write_config(tmp_path / "joint.yaml", {**config, "out": str(tmp_path / "b")})
    assert train_command.main([file, *as_words(steps), "out=" + str(tmp_path / "a"), "--json", str(tmp_path / "x.json")]) == 0
    kept = (tmp_path / "a" / "joint" / "model.safetensors").rename(tmp_path / "by_command.safetensors")
    (tmp_path / "a").rename(tmp_path / "old")
    run = train(config, {**steps, "out": tmp_path / "a"}, name="joint")
    assert same_model(run.model_file, kept)
    report = json.loads((tmp_path / "x.json").read_text())
    assert (report["steps"], report["metrics"], report["model"]) == (run.steps, run.metrics, str(run.model_file))
    assert run.folder.path == tmp_path / "a" / "joint"
    tasks = {"predict": {"stride": 2, "given": [[0], [0, 1]]}, "short": {"stride": 1, "given": [[]]}}
    rest = {"fps": [8, 8], "max_level": 250, "labels": [], "label_dropout": 0, "empty_caption": 0}
    assert read_info(run.model_file).trained == {"tasks": tasks, **rest}
    assert read_info(save(run.model, tmp_path / "again.safetensors")).trained == {"tasks": tasks, **rest}
    assert torch.equal(run.model.denoiser.state_dict()["out.2.weight"], load_file(kept)["denoiser.out.2.weight"])


def test_a_config_from_python_may_be_files_mappings_and_values(tmp_path: Path) -> None:
    file = Path(write_config(tmp_path / "a.yaml", autoencoder_config(Path("${define.data}"), tmp_path)))
    more = {"define": {"data": tmp_path / "videos"}, "trainer": {"max_steps": 7}}
    overrides = {"average": 0.5, "name": "a=b ${define.data}", "data.params.batch_size": 3, "previews": {"num": 0}}
    found = read_settings([file, more], overrides, schema=RunConfig)
    assert found.data.params.train.params.root == str(tmp_path / "videos") and found.trainer.max_steps == 7
    assert (found.average, found.data.params.batch_size, found.name) == (0.5, 3, f"a=b {tmp_path / 'videos'}")
    with pytest.raises(UserError, match="holds plain values, not a Cosine"):
        read_settings([file, more], {"model.params.schedule": Cosine()}, schema=RunConfig)
    with pytest.raises(UserError, match="this run has no name"):
        train(read_settings([file, more], schema=RunConfig))


def test_looks_at_a_config_return_what_the_command_prints(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = autoencoder_config(made / "videos", tmp_path)
    file = write_config(tmp_path / "a.yaml", config)
    assert train_command.main([file, "--dry-run"]) == 0
    sizes = dry_run(config)
    assert f"{sizes.trained_parameters:,}" in capsys.readouterr().out and sizes.effective_batch == 2
    assert train_command.main([file, "--check-data"]) == 0
    facts = check_data(config, name="b")
    assert f"{facts['train'].frames} (" in capsys.readouterr().out
    assert Path(facts["train"].contact_sheet) == tmp_path / "b_data_train.png"


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_python_and_the_command_encode_the_same_shards(made: Path, tmp_path: Path) -> None:
    weights = made / "autoencoder" / "model.safetensors"
    codec = json.loads(json.dumps(diffusion_config(made, tmp_path, weights)["model"]["params"]["codec"]))
    config = {"codec": codec, "data": {"train": video_set(made / "videos")}, "codec_weights": str(weights), "std": True}
    file = write_config(tmp_path / "encode.yaml", {**config, "out": str(tmp_path / "command")})
    assert encode_command.main([file]) == 0
    expected, settings = shards(tmp_path / "command" / "train"), EncodeSettings(std=True)
    assert encode_config({**config, "out": tmp_path / "config"})["train"].videos == 4
    assert shards(tmp_path / "config" / "train") == expected
    report = encode(weights, VideoFolder(made / "videos", num_frames=8, size=16), tmp_path / "set", settings=settings)
    assert (report.videos, report.unit) == (4, "videos") and shards(tmp_path / "set") == expected
    model = lvdm.load(weights)
    for number, given in enumerate((model, model.codec)):
        encode(given, video_set(made / "videos"), tmp_path / str(number), settings=settings)
        assert shards(tmp_path / str(number)) == expected
    plain = encode(model, made / "videos", tmp_path / "folder", settings=settings)  # 16 pixels, as in its training
    tensors = [name for name in expected if name.endswith(".safetensors")]
    assert plain.videos == 4 and all((tmp_path / "folder" / name).read_bytes() == expected[name] for name in tensors)
    with pytest.raises(UserError, match="precision"):  # latents of two precisions are never mixed
        encode(model, made / "videos", tmp_path / "folder", settings=EncodeSettings(std=True, precision="bfloat16"))
    with pytest.raises(UserError, match="give size"):
        encode(model.codec, made / "videos", tmp_path / "no size")


class Doubling(torch.nn.Module):
    """A user's own denoiser."""

    inputs = DenoiserInputs()

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(2, 2, 1, groups=width)

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: Condition | None = None) -> torch.Tensor:
        return 2 * self.layer(x)


def test_what_is_saved_is_what_was_loaded(made: Path, tmp_path: Path) -> None:
    config = diffusion_config(made / "latents", tmp_path, made / "autoencoder" / "model.safetensors")
    run = train(config, name="joint")
    for file in (run.model_file, made / "autoencoder" / "model.safetensors"):
        assert same_model(file, save(load(file), tmp_path / "again.safetensors", overwrite=True))
    with pytest.raises(UserError, match="again.safetensors exists and is kept"):
        save(run.model, tmp_path / "again.safetensors")
    assert read_info(save(run.model, tmp_path / "again.safetensors", step=9, overwrite=True)).step == 9


def test_a_model_built_by_hand_is_saved_with_the_nodes_of_its_parts(made: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = load(made / "autoencoder" / "model.safetensors")
    parts = (Codec(trained.codec.autoencoder, scale=2.0), Doubling(1), Cosine(), VObjective())
    model = VideoModel(*parts, SamplingSettings([2, 4, 2, 2], steps=2))
    nodes = {
        "autoencoder": trained.description["autoencoder"],
        "denoiser": {"target": f"{__name__}.Doubling", "params": {"width": 1}},
        "schedule": {"target": "lvdm.diffusion.schedules.Cosine"},
        "objective": {"target": "lvdm.diffusion.objectives.VObjective"},
    }
    with pytest.raises(UserError, match=r'how its denoiser is built; give nodes=\{"denoiser": \{"target": "test_jobs.Doubling"'):
        save(model, tmp_path / "mine.safetensors", nodes={"autoencoder": nodes["autoencoder"]})
    again = load(save(model, tmp_path / "mine.safetensors", nodes=nodes, allow=[__name__]), allow=[__name__])
    assert torch.equal(again.sample_latents(2, seed=3), model.sample_latents(2, seed=3)) and again.codec.scale == 2.0
    for changes, words in (
        ({"schedule": {"target": "lvdm.diffusion.schedules.Linear"}}, "another one than the model's Cosine"),
        ({"schedule": {**nodes["schedule"], "params": {"snr_shift": 2.0}}}, "another one than the model's Cosine"),
        ({"objective": {"target": "os.system"}}, "a config may name"),
        ({"objective": {"target": "torch.nn.Linear"}}, "expected a target of kind Objective"),
    ):
        with pytest.raises(UserError, match=words):
            save(model, tmp_path / "other.safetensors", nodes={**nodes, **changes}, allow=[__name__])
    for broken, options in ((replace(model, settings=None), {}), (model, {"step": -1})):
        with pytest.raises(UserError):
            save(broken, tmp_path / "other.safetensors", nodes=nodes, allow=[__name__], **options)
    with pytest.raises(UserError, match="has 3 channels, and the codec's latents have 2"):
        save(replace(again, settings=SamplingSettings([3, 4, 2, 2])), tmp_path / "other.safetensors", allow=[__name__])
    with pytest.raises(
        UserError, match=r"cannot be built: denoiser.target is test_jobs.Doubling.*of your own is allowed by its name"
    ):
        load(tmp_path / "mine.safetensors")
    other = replace(again, denoiser=Doubling(2))
    with pytest.raises(UserError, match="do not fit the Doubling"):
        save(other, tmp_path / "other.safetensors", allow=[__name__])
