"""A disk that is full: training goes on where it can, commands end with one sentence, and nothing half-written is left."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.summary_pb2 import Summary
from test_train_command import rows, same
from tiny_training import checkpoint

from lvdm.cli import command, train
from lvdm.evaluation.curves import write_chart, write_csv
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
    said = f"cannot write to tensorboard ({FULL}): training goes on, and metrics.csv has its figures"
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
