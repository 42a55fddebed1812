"""Resuming a run: what may change and what is named, and checkpoints that are broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from test_train_command import same
from tiny_training import checkpoint, write_videos

from lvdm.cli import train
from lvdm.config import to_dict
from lvdm.jobs import resume
from lvdm.jobs.run_config import read_run_config
from lvdm.types import UserError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "lvdm" / "joint_toy.yaml"


def test_a_run_goes_on_with_other_lengths_and_workers_but_names_what_decides_the_weights(configs, tmp_path, capsys, caplog):
    assert train.main([configs["joint"]]) == 0
    same_run = ["trainer.max_steps=3", "data.params.num_workers=1", "checkpoints.keep=1", "compile=false"]
    assert train.main([configs["joint"], *same_run]) == 0
    changes = ["trainer.max_steps=4", "trainer.gradient_clip_val=0.5", "model.params.tasks.short.params={stride: 2}"]
    before = (tmp_path / "joint" / "config.yaml").read_text()
    assert train.main([configs["joint"], *changes]) == 2
    said = capsys.readouterr().err
    assert "trainer.gradient_clip_val (absent then, 0.5 now)" in said and "allow changes" in said
    assert "model.params.tasks.short.params.stride (absent then, 2 now)" in said
    assert (tmp_path / "joint" / "config.yaml").read_text() == before
    assert train.main([configs["joint"], *changes, "--allow-changes"]) == 0
    assert "trainer.gradient_clip_val (absent then, 0.5 now)" in caplog.text
    assert train.main([configs["joint"], *changes, "trainer.max_steps=5", "data.params.batch_size=1"]) == 2
    assert "samples of a batch of all processes (2 then, 1 now)" in capsys.readouterr().err


def test_a_key_that_the_run_did_not_know_is_compared_as_its_default(monkeypatch, tmp_path):
    monkeypatch.setattr(resume, "read_run_checkpoint", lambda path: {})
    settings = to_dict(read_run_config(CONFIG))
    older = {name: value for name, value in settings.items() if name != "average_each_batch"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
    path = tmp_path / "checkpoints" / "last.ckpt"
    resume.check_unchanged(path, settings, {}, allow_changes=False)
    with pytest.raises(UserError, match=r"average_each_batch \(False then, True now\)"):
        resume.check_unchanged(path, {**settings, "average_each_batch": True}, {}, allow_changes=False)


@pytest.mark.parametrize("stops", [(4, 8), (3, 4), (1, 5)])
def test_a_run_that_stops_again_and_again_trains_every_epoch_once(stops, configs, tmp_path):
    """Four batches an epoch; it stops at the ends of epochs and within them."""
    assert train.main([configs["joint"], "trainer.max_steps=10", "--name", "whole"]) == 0
    for stop in (*stops, 10):
        assert train.main([configs["joint"], f"trainer.max_steps={stop}", "--name", "cut"]) == 0
    whole, cut = (checkpoint(tmp_path / name) for name in ("whole", "cut"))
    assert whole["loops"]["fit_loop"]["state_dict"] == cut["loops"]["fit_loop"]["state_dict"], "the position in the data"
    assert same(whole["current_model_state"], cut["current_model_state"])


def test_another_data_set_is_named(made, configs, tmp_path, capsys):
    moved, grown = tmp_path / "moved", tmp_path / "grown"
    shutil.copytree(made / "videos", moved)
    shutil.copytree(write_videos(tmp_path / "more", count=5), grown)
    where = ["data.params.train.params.root={}", "data.params.val.params.root={}"]
    assert train.main([configs["autoencoder"]]) == 0
    assert train.main([configs["autoencoder"], "trainer.max_steps=3", *(key.format(moved) for key in where)]) == 0
    assert train.main([configs["autoencoder"], "trainer.max_steps=4", *(key.format(grown) for key in where)]) == 2
    assert "was made with other settings: data (" in capsys.readouterr().err


@pytest.mark.parametrize("older", ["previous.ckpt", "step=3.ckpt"])
def test_a_broken_checkpoint_falls_back_to_the_one_before_it_aloud(older, configs, tmp_path, caplog):
    caplog.set_level("INFO")
    every = ["checkpoints.every_steps=1", "checkpoints.keep=2", "trainer.max_steps=6"]
    assert train.main([configs["joint"], *every, "--name", "whole"]) == 0
    assert train.main([configs["joint"], *every, "trainer.max_steps=4", "--name", "cut"]) == 0
    folder = tmp_path / "cut" / "checkpoints"
    names = ["last.ckpt", "step=4.ckpt"] + (["previous.ckpt"] if older == "step=3.ckpt" else [])
    for name in names:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(content[: len(content) // 2])
    if older == "step=3.ckpt":
        shutil.copyfile(tmp_path / "whole" / "checkpoints" / "step=5.ckpt", folder / "step=3.ckpt")  # any whole one will do
    assert train.main([configs["joint"], *every, "--name", "cut"]) == 0
    assert f"resuming from {older}" in caplog.text and "trying the one before it" in caplog.text and "is truncated" in caplog.text
    assert same(checkpoint(tmp_path / "whole")["current_model_state"], checkpoint(tmp_path / "cut")["current_model_state"])
