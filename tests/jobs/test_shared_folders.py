"""Two independent starts of encoding or sampling in one folder: with equal settings they end well, with others one is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from test_encode_command import config as encode_config
from test_encode_command import latents, made, run  # noqa: F401  (`made` is a fixture)
from test_sample_commands import at, joint, names, video  # noqa: F401  (fixtures)
from test_train_command import files, same
from tiny_training import write_config

from lvdm.cli import sample_short
from lvdm.jobs.lock import only_alike
from lvdm.sampling import kept_settings

ROOT = Path(__file__).resolve().parents[2]


def start_two(command: str, *arguments: str) -> list[tuple[int, str]]:
    """Exit status and stderr of each."""
    line = [sys.executable, str(ROOT / "scripts" / f"{command}.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [each.communicate(timeout=120)[1] for each in both]
    return [(each.returncode, text) for each, text in zip(both, said, strict=True)]


@contextmanager
def another_process_writes(folder: Path, facts: dict[str, str]) -> Iterator[int]:
    if (child := os.fork()) == 0:
        with only_alike(folder, facts):
            (folder / "held").touch()
            time.sleep(60)
    try:
        while not (folder / "held").exists():
            time.sleep(0.01)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_two_starts_of_the_same_encoding_make_what_one_makes(made: Path, tmp_path: Path) -> None:  # noqa: F811
    assert run(tmp_path, encode_config(made, tmp_path / "one", shard_size=1)) == 0
    both = start_two("encode", write_config(tmp_path / "two.yaml", encode_config(made, tmp_path / "two", shard_size=1)))
    assert [status for status, _ in both] == [0, 0], both
    assert same(latents(tmp_path / "one" / "train"), latents(tmp_path / "two" / "train"))
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_encoding_with_other_settings_is_refused_while_another_process_writes(made, tmp_path, capsys) -> None:  # noqa: F811
    folder = tmp_path / "out" / "train"
    with another_process_writes(folder, {"dtype": "float16", "shard_size": "64"}):
        assert run(tmp_path, encode_config(made, tmp_path / "out")) == 2
        assert f"{folder} is being written by another process, with another codec_fingerprint" in capsys.readouterr().err
        assert {path.name for path in folder.iterdir()} == {"held", ".lock"}
    assert run(tmp_path, encode_config(made, tmp_path / "out")) == 0, "a dead process holds nothing"
    assert not (folder / ".lock").exists()


def test_two_starts_of_the_same_sampling_leave_whole_videos_of_one(joint: Path, at: Path) -> None:  # noqa: F811
    options = [str(joint), "--steps", "2", "--format", "npz", "--num", "3", "--batch-size", "1", "--device", "cpu"]
    assert sample_short.main([*options, "--out", "one"]) == 0
    both = start_two("sample_short", *options, "--out", "two", "--resume")
    assert 0 in [status for status, _ in both], both
    for status, said in both:
        assert status == 0 or (status == 2 and "exists and is kept" in said), said
    made_by_two = [name for name in names(at / "two") if name.endswith(".npz")]
    assert made_by_two == names(at / "one")
    assert all((video(at / "one" / name) == video(at / "two" / name)).all() for name in made_by_two)


def test_of_two_samplings_with_other_settings_one_is_refused(joint, at, capsys, monkeypatch) -> None:  # noqa: F811
    """The second one looks before the first has written its settings, and writes after it."""
    options = [str(joint), "--format", "npz", "--num", "1", "--out", "two", "--resume", "--device", "cpu"]
    write_new, began = kept_settings.write_new, []

    def first_comes_in_between(path: Path, write: Callable[[Path], object]) -> bool:
        if not began:
            began.append(path)
            assert sample_short.main([*options, "--steps", "2"]) == 0
        return write_new(path, write)

    monkeypatch.setattr(kept_settings, "write_new", first_comes_in_between)
    assert sample_short.main([*options, "--steps", "3"]) == 2
    assert "started with other settings: steps (2 then, 3 now)" in capsys.readouterr().err
