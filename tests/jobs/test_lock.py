"""Two trainings under one name: the second is refused before it touches anything, and a dead one holds nothing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import time
from pathlib import Path

import pytest
from test_kills import start, wait_for_a_checkpoint_after
from test_train_command import files
from tiny_training import checkpoint

from lvdm.cli import train
from lvdm.jobs.lock import only_one
from lvdm.jobs.run_folder import RunFolder
from lvdm.types import UserError


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder) if name in ("config.yaml", "checkpoints/last.ckpt")}


def test_a_second_training_of_a_name_is_refused_until_the_first_one_is_dead(configs, tmp_path, capfd) -> None:
    """The first is stopped, so that it holds still; then it is killed, and its worker process outlives it a little."""
    assert train.main([configs["joint"], "--name", "run"]) == 0
    run = tmp_path / "run"
    longer = [configs["joint"], "--name", "run", "trainer.max_steps=100000"]
    first = start(*longer[:1], "run", "trainer.max_steps=100000", "checkpoints.every_steps=1", "data.params.num_workers=1")
    try:
        wait_for_a_checkpoint_after(run / "checkpoints" / "last.ckpt", time.time(), first)
        os.kill(first.pid, signal.SIGSTOP)
        before, names = contents(run), files(run)
        for further in ([], ["--resume", "never"], ["trainer.max_steps=3"]):
            assert train.main([*longer, *further]) == 2
            assert f"{run} is in use by process {first.pid} on " in capfd.readouterr().err
        assert train.main([*longer, "--dry-run"]) == 0
        assert contents(run) == before and files(run) == names
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert train.main([*longer, f"trainer.max_steps={checkpoint(run)['global_step'] + 1}"]) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):  # the worker has ended already
            os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    assert not (run / ".lock").exists()


def test_what_is_refused_leaves_no_folder(configs, tmp_path) -> None:
    assert train.main([configs["joint"], f"out={tmp_path / 'new' / 'runs'}", "data.params.batch_size=1000"]) == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("rank", ["RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"])
def test_the_first_process_holds_the_lock_for_all(rank, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(rank, "1")
    with only_one(RunFolder(tmp_path / "run")):
        assert not (tmp_path / "run").exists()


def test_a_file_system_without_locks_is_noted_and_the_work_goes_on(tmp_path, monkeypatch, caplog) -> None:
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with only_one(RunFolder(tmp_path / "run")):
        pass
    assert f"cannot lock {tmp_path / 'run'} (No locks available)" in caplog.text


def test_a_lock_that_is_removed_by_its_holder_is_made_anew(tmp_path) -> None:
    """A process that opened the old file just before it was removed must not hold a lock that nobody else can see."""
    path, opened = tmp_path / ".lock", []
    path.touch()
    plain = fcntl.lockf

    def lock(file: int, operation: int) -> None:
        if not opened:
            path.unlink()
        opened.append(file)
        plain(file, operation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "lockf", lock)
        with only_one(RunFolder(tmp_path)):
            assert len(opened) == 2 and path.read_text().startswith(f"process {os.getpid()} on ")
    assert not path.exists()


def test_the_sentence_names_an_unknown_holder_too(tmp_path) -> None:
    if (child := os.fork()) == 0:
        held = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
        fcntl.lockf(held, fcntl.LOCK_EX)
        (tmp_path / "held").touch()
        time.sleep(60)
    try:
        while not (tmp_path / "held").exists():
            time.sleep(0.01)
        with pytest.raises(UserError, match="in use by another process; wait until it ends"), only_one(RunFolder(tmp_path)):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
