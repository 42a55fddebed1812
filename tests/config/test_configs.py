"""Every shipped config: it builds without weights, has the published size, says what it will take; and dry runs as such."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lvdm.cli import encode, train
from lvdm.config import check, instantiate, load_config, with_defaults
from lvdm.jobs import dry_run as dry_run_module
from lvdm.jobs.encode import EncodeConfig, check_pieces
from lvdm.jobs.trainer import num_processes

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "lvdm"
TRAINED = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.startswith("encode"))
PUBLISHED = {"short": 548.9, "predict": 549.2, "infill": 549.2, "autoencoder": 19.4}  # million parameters
PUBLISHED_SETS = ("sky", "ucf101", "taichi")
JOINT = str(FOLDER / "joint_toy.yaml")


def dry_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str) -> dict:
    assert train.main([*arguments, "--dry-run", "--json", str(tmp_path / "dry.json")]) == 0, capsys.readouterr().err
    return json.loads((tmp_path / "dry.json").read_text())["dry_run"]


def test_there_is_a_config_for_every_stage_and_data_set():
    stages = ("autoencoder", "encode", "short", "predict", "infill", "joint")
    there = {path.stem for path in FOLDER.glob("*.yaml")}
    assert there >= {f"{stage}_{data}" for stage in stages for data in ("sky", "toy")}
    assert there >= {f"{stage}_{data}" for stage in stages[:-1] for data in PUBLISHED_SETS}


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_a_config_builds_without_weights_and_says_its_size(path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run_module, "training_gib", lambda *_, **__: 1.0)  # takes seconds; its tests follow
    report = dry_run(capsys, tmp_path, str(path))
    stage, data = path.stem.rsplit("_", 1)
    if data in PUBLISHED_SETS and stage in PUBLISHED:
        assert round(report["trained parameters"] / 1e6, 1) == PUBLISHED[stage]
    if data in PUBLISHED_SETS:
        assert round(report["autoencoder parameters"] / 1e6, 1) == PUBLISHED["autoencoder"]
    said = capsys.readouterr().out
    assert f"{report['trained parameters']:,}" in said and report["learning rate"] > 0 and report["effective batch"] >= 1
    assert {entry.name for entry in tmp_path.iterdir()} == {"dry.json"}, "a dry run leaves nothing"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("encode_*.yaml")), ids=lambda path: path.stem)
def test_a_config_of_encoding_builds(path):
    config = load_config([path])
    check(config, schema=EncodeConfig)
    config = with_defaults(config, EncodeConfig)
    with torch.device("meta"):
        codec = instantiate(config.codec)
    check_pieces(config, codec)
    assert set(config.data) == {"train", "val"} and all(instantiate(node) is not None for node in config.data.values())


@pytest.mark.parametrize(
    ("config", "overrides", "measured"),
    [
        ("autoencoder_sky", ["model.params.loss.params.lpips=0", "model.params.adversary=null"], 9.30),
        ("autoencoder_sky", ["model.params.loss.params.lpips=0", "model.params.adversary=null", "trainer.precision=bf16"], 7.82),
        ("short_sky", ["data.params.batch_size=4"], 10.46),
        ("predict_sky", [], 10.53),
    ],
)
def test_estimated_memory_is_near_what_a_gpu_took(config, overrides, measured, capsys, tmp_path):
    """Peaks of scripts/benchmark.py --stage train on an H200, where nothing is averaged (docs/benchmarks.md)."""
    report = dry_run(capsys, tmp_path, str(FOLDER / f"{config}.yaml"), "average=0", *overrides)
    assert report["memory of a training step on a GPU (GiB, estimated)"] == pytest.approx(measured, rel=0.07)


def test_memory_grows_with_the_batch_and_shrinks_with_checkpointing_and_tiles(capsys, tmp_path):
    def gib(*overrides):
        report = dry_run(capsys, tmp_path, str(FOLDER / "autoencoder_sky.yaml"), "average=0", *overrides)
        return report["memory of a training step on a GPU (GiB, estimated)"]

    plain = gib()
    assert gib("data.params.batch_size=2") == pytest.approx(2 * plain, rel=0.1)
    tiles = "model.params.loss.params.lpips_at_once=2"
    assert gib(tiles) < 0.8 * plain
    assert gib(tiles, "model.params.codec.params.autoencoder.params.checkpointing=true") < 0.5 * plain
    assert plain < 24, "16 frames of 256 x 256 at batch 1 fit a GPU of 24 GB"


def test_stages_of_one_data_set_share_an_autoencoder():
    for data in ("toy", *PUBLISHED_SETS):
        configs = {path.stem: load_config([path]) for path in FOLDER.glob(f"*_{data}.yaml")}
        codecs = [c.get("codec") or c.model.params.codec for c in configs.values()]
        assert all(codec.params.autoencoder == codecs[0].params.autoencoder for codec in codecs)


def test_the_report_is_of_the_settings_given(capsys, tmp_path):
    plain = dry_run(capsys, tmp_path, JOINT)
    more = ["trainer.accumulate_grad_batches=3", "data.params.batch_size=5", "trainer.devices=2", "trainer.num_nodes=4"]
    changed = dry_run(capsys, tmp_path, JOINT, *more, "model.params.optimizer={target: lvdm.training.AdamW, params: {lr: 0.5}}")
    assert changed["effective batch"] == 5 * 3 * 2 * 4 and changed["learning rate"] == 0.5
    assert plain["latent shape"] == "4 x 9 x 8 x 8" and changed["trained parameters"] == plain["trained parameters"]
    default = dry_run(capsys, tmp_path, JOINT, "model.params.optimizer=null", "trainer.accumulate_grad_batches=1")
    assert default["learning rate"] == 1e-4, "AdamW's own"


@pytest.mark.parametrize(
    ("devices", "nodes", "expected"),
    [(3, 1, 3), ("2", 2, 4), ([0, 2], 1, 2), ("0,1,5", 1, 3), ("auto", 2, 2), (-1, 1, 1), ("-1", 1, 1)],
)
def test_processes_are_counted_as_lightning_reads_them(devices, nodes, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert num_processes({"devices": devices, "num_nodes": nodes}) == expected
    assert num_processes({}) == 1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("sampling.latent_shape=[4,8,8,8]", "does not fit the model"),
        ("sampling.sampler=dpm", "sampling.sampler is 'dpm', expected one of"),
        ("sampling.eta=1.5", "eta is 1.5"),
        ("model.params.denoiser.params.mask_channel=false", "mask_channel"),
        ("trainer.max_step=5", "did you mean trainer.max_steps?"),
        ("model.params.schedule.params.snr_shft=2", "did you mean model.params.schedule.params.snr_shift?"),
        ("data.params.batch_size=0", "batch_size is 0"),
    ],
)
def test_a_dry_run_refuses_what_training_would(setting, words, capsys):
    assert train.main([JOINT, setting, "--dry-run"]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_later_file_overrides_an_earlier_one_and_the_command_line_both(capsys, tmp_path):
    (tmp_path / "more.yaml").write_text("data: {params: {batch_size: 2}}\naverage: 0.5\n")
    assert dry_run(capsys, tmp_path, JOINT, str(tmp_path / "more.yaml"))["effective batch"] == 2
    assert dry_run(capsys, tmp_path, JOINT, str(tmp_path / "more.yaml"), "data.params.batch_size=7")["effective batch"] == 7


@pytest.mark.parametrize("command", [train, encode])
def test_help_ends_with_a_command_on_a_shipped_config(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    example = capsys.readouterr().out.split("example:\n")[1].split()
    assert all((FOLDER.parents[1] / word).is_file() for word in example if word.startswith(("scripts/", "configs/")))
