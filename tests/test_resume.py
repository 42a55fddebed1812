"""Going on with a run: what may change and what is named, checkpoints that are broken, a disk that is full."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from test_train_command import same
from tiny_training import checkpoint, write_videos

from lvdm.cli import train
from lvdm.training.checkpointing import SaveCheckpoints

# What changed, and what is broken ------------------------------------------------------------------------------------------


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


# A full disk ---------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_written_is_tried_again_and_the_old_one_stays(configs, tmp_path, monkeypatch, caplog):
    """The disk is full at steps 2 to 4; every change of last.ckpt is seen."""
    seen, save = {}, torch.save

    def full(state, file):
        if 2 <= state["global_step"] <= 4:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file)

    class Look(SaveCheckpoints):
        def on_train_batch_end(self, trainer, *arguments):
            super().on_train_batch_end(trainer, *arguments)
            seen[trainer.global_step] = checkpoint(tmp_path / "joint")["global_step"]

    monkeypatch.setattr("lvdm.training.checkpointing.torch.save", full)
    monkeypatch.setattr("lvdm.jobs.train.SaveCheckpoints", Look)
    assert train.main([configs["joint"], "trainer.max_steps=6", "checkpoints.every_steps=1"]) == 0
    assert seen == {1: 1, 2: 1, 3: 1, 4: 1, 5: 5, 6: 6}
    assert (
        "cannot write the checkpoint of step 2 (the disk is full: No space left on device): that of step 1 stays" in caplog.text
    )
    assert not [path for path in (tmp_path / "joint").rglob(".*") if path.is_file()]


@pytest.fixture
def small_disk(tmp_path):
    """Sixteen MiB, where this machine lets one be made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("no tmpfs can be made here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_on_a_disk_that_is_really_full_a_run_keeps_what_was_whole(small_disk, configs, capsys):
    out = f"out={small_disk}"
    assert train.main([configs["joint"], out, "trainer.max_steps=2"]) == 0
    last = small_disk / "joint" / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(max(0, free - len(whole) // 2)))
    assert train.main([configs["joint"], out, "trainer.max_steps=4"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert (
        "cannot write the checkpoint" in said[-1]
        and "the disk is full" in said[-1]
        and "free space, then start again to go on" in said[-1]
    )
    assert last.read_bytes() == whole
    (small_disk / "filler").unlink()
    assert train.main([configs["joint"], out, "trainer.max_steps=4"]) == 0
    assert checkpoint(small_disk / "joint")["global_step"] == 4


@pytest.mark.parametrize("what", ["model", "checkpoint"])
def test_a_full_disk_is_one_sentence_and_leaves_what_was_whole(what, configs, tmp_path, monkeypatch, capsys):
    assert train.main([configs["joint"], "trainer.max_steps=2"]) == 0
    run = tmp_path / "joint"
    before = {name: (run / name).read_bytes() for name in ("checkpoints/last.ckpt", "model.safetensors")}

    def full(*arguments, **_):
        Path(next(a for a in arguments if isinstance(a, (str, Path)))).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    if what == "model":
        monkeypatch.setattr("lvdm.checkpoints.model_file.save_file", full)
    else:
        monkeypatch.setattr(pl.Trainer, "save_checkpoint", lambda _, *a: full(*a))
    assert train.main([configs["joint"], "trainer.max_steps=4"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "No space left on device" in said[-1] and f"cannot write the {what}" in said[-1]
    assert (run / "model.safetensors").read_bytes() == before["model.safetensors"]
    if what == "checkpoint":
        assert (run / "checkpoints" / "last.ckpt").read_bytes() == before["checkpoints/last.ckpt"]
    assert not [path for path in run.rglob(".*") if path.is_file()]
    monkeypatch.undo()
    assert train.main([configs["joint"], "trainer.max_steps=4"]) == 0
