"""A disk that is full: training goes on where it can, commands end with one sentence, and nothing half-written is left."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from test_train_command import rows, same
from tiny_training import checkpoint

from lvdm.cli import command, train
from lvdm.evaluation.results.curves import write_chart, write_csv
from lvdm.files import why_not_written
from lvdm.sampling.writers import ContactSheet, open_writers
from lvdm.training.checkpointing import SaveCheckpoints
from lvdm.training.tensorboard import Tensorboard
from lvdm.types import UserError

FULL = "the disk is full: No space left on device"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Sixteen MiB, where this machine lets a small disk be made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("no tmpfs can be made here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file()]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk quota is used up: Disk quota exceeded"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError("av_interleaved_write_frame(): No space left on device\nConversion failed!"), FULL),
        (RuntimeError('I/O error: Other { error: Os { code: 28 } } (os error 28)'), FULL),
        (ValueError("something else"), "something else"),
    ],
)  # fmt: skip
def test_the_reason_is_in_words(error: Exception, said: str) -> None:
    assert why_not_written(error) == said


def test_training_goes_on_while_the_disk_is_full(disk, configs, tmp_path, monkeypatch, capfd, caplog) -> None:
    """Full from step 1 to step 4 of 6; checkpoints, previews, metrics and the model file all meet it."""
    done = SaveCheckpoints.on_train_batch_end

    def step(self, trainer, *arguments):
        if trainer.global_step == 2:
            fill(disk)
        done(self, trainer, *arguments)
        if trainer.global_step == 5:
            (disk / "filler").unlink()

    settings = [configs["joint"], "trainer.max_steps=6", "checkpoints.every_steps=1", "previews={num: 1, steps: 1}"]
    assert train.main([*settings, "--name", "whole"]) == 0
    caplog.clear()
    monkeypatch.setattr(SaveCheckpoints, "on_train_batch_end", step)
    assert train.main([*settings, "--name", "full", f"out={disk}"]) == 0
    for words in ("metrics.csv", "the preview of step 2", "the checkpoint of step 2", "the model to"):
        assert [each for each in caplog.messages if f"cannot write {words}" in each.replace(f"{disk}/full/", "")], words
    assert all("No space" in each for each in caplog.messages if "cannot write" in each)
    assert "Traceback" not in capfd.readouterr().err
    assert rows(disk / "full") == rows(tmp_path / "whole")
    assert same(checkpoint(disk / "full")["current_model_state"], checkpoint(tmp_path / "whole")["current_model_state"])
    assert not left_over(disk)


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

    monkeypatch.setattr("lvdm.training.checkpoint_file.torch.save", full)
    monkeypatch.setattr("lvdm.jobs.train.SaveCheckpoints", Look)
    assert train.main([configs["joint"], "trainer.max_steps=6", "checkpoints.every_steps=1"]) == 0
    assert seen == {1: 1, 2: 1, 3: 1, 4: 1, 5: 5, 6: 6}
    assert "cannot write the checkpoint of step 2 (the disk is full: No space left on device); step 1 stays saved" in caplog.text
    assert not [path for path in (tmp_path / "joint").rglob(".*") if path.is_file()]


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


def test_a_full_disk_ends_tensorboard_once_and_quietly(disk, capfd, caplog) -> None:
    board = Tensorboard(disk)
    board.log_metrics({"loss": 1.0}, 0)
    board.save()
    fill(disk)
    for step in range(1, 300):  # the first ones fit into the last block
        board.log_metrics({"loss": 1.0}, step)
        board.save()
    board.add_summary(Summary(), 300)
    board.finalize("success")
    said = f"cannot write to tensorboard ({FULL}); training continues, and metrics.csv holds the metrics"
    assert caplog.messages == [said]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["mp4", "gif", "npz", "frames"])
def test_a_video_that_does_not_fit_is_one_sentence_and_leaves_nothing(kind: str, disk: Path) -> None:
    fill(disk)
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3)).astype(np.uint8)
    path = disk / ("video" if kind == "frames" else f"video.{kind}")
    said = pytest.raises(UserError, match=f"(could not|cannot) write .*{FULL}; free space")
    with said, open_writers({kind: path}, fps=8) as files:
        for _ in range(8):
            files.write(noise)
    assert sorted(each.name for each in disk.iterdir()) == ["filler"]


def test_what_else_a_command_writes_is_one_sentence_and_leaves_nothing(disk: Path) -> None:
    fill(disk)
    curves = {"video": {"speed": np.arange(3000.0)}}
    sheet = ContactSheet(disk / "sheet.png", every=1)
    sheet.write(0, np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3)).astype(np.uint8))
    writes = {
        "report.json": lambda path: command.write_text(path, "text" * 5000),
        "curves.csv": lambda path: write_csv(path, curves),
        "curves.png": lambda path: write_chart(path, curves, show={"speed": "Speed"}),
        "sheet.png": lambda path: sheet.close(),
    }
    for name, write in writes.items():
        with pytest.raises(UserError, match=f"cannot write .*{name}: {FULL}; free space"):
            write(disk / name)
    assert sorted(each.name for each in disk.iterdir()) == ["filler"]


def test_a_report_that_cannot_be_written_ends_the_command_with_status_2(capsys) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    parse = command.parser("", example="")

    def work(args) -> command.Report:
        with open("/dev/full", "w") as file:
            file.write("text")
        return {}

    assert command.run(parse, work, []) == 2
    assert capsys.readouterr().err.strip().endswith(FULL)
