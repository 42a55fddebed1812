"""Bad input at every command: one sentence, status 2, nothing half-written, nothing that came in a file is run."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tiny_training import CODEC, autoencoder_config, diffusion_config, video_set, write_config

from lvdm.cli import train

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {script.stem: import_module(f"lvdm.cli.{script.stem}") for script in sorted((ROOT / "scripts").glob("*.py"))}


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


@dataclass(frozen=True)
class Place:
    """What a case may use: good input, and a folder of its own."""

    made: Path  # videos, latents, models
    at: Path  # empty

    def file(self, name: str, content: bytes | str = b"") -> str:
        path = self.at / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    @property
    def model(self) -> str:
        return str(self.made / "joint" / "model.safetensors")

    @property
    def truncated(self) -> str:
        return self.file("cut.safetensors", Path(self.model).read_bytes()[:-100])

    @property
    def foreign(self) -> str:
        torch.save({"a": torch.zeros(1)}, self.at / "foreign.safetensors")
        return str(self.at / "foreign.safetensors")

    @property
    def bomb(self) -> str:
        """A pickle with code inside, in each of the names that commands read."""
        path = self.at / "bomb.ckpt"
        with path.open("wb") as file:
            pickle.dump({"state_dict": {}, "it": Bomb(self.at / "BOOM")}, file)
        return str(path)

    @property
    def bomb_in_zip(self) -> str:
        torch.save({"state_dict": {"w": torch.zeros(1)}, "it": Bomb(self.at / "BOOM")}, self.at / "zip.ckpt")
        return str(self.at / "zip.ckpt")

    @property
    def below_a_file(self) -> str:
        return str(Path(self.file("a_file")) / "out")

    def config(self, **changed: object) -> str:
        config = diffusion_config(self.made / "latents", self.at / "runs", self.made / "autoencoder" / "model.safetensors")
        return write_config(self.at / "joint.yaml", {**config, **changed})

    @property
    def conversion(self) -> list[str]:
        scale = [f"model.params.codec.params.{name}=1.5" for name in ("scale", "shift")]
        return ["--from", "lvdm", "--config", self.config(), *scale, "--out", str(self.at / "m.safetensors")]

    def encode_config(self, **changed: object) -> str:
        weights = str(self.made / "autoencoder" / "model.safetensors")
        data = {"train": video_set(self.made / "videos")}
        config = {"codec": CODEC, "codec_weights": weights, "data": data, "out": str(self.at / "latents"), **changed}
        return write_config(self.at / "encode.yaml", config)

    def broken_videos(self) -> Path:
        folder = self.at / "videos"
        folder.mkdir()
        for number in range(3):
            (folder / f"{number}.mp4").write_bytes(b"" if number else b"not a video")
        return folder


LONG = ["--frames", "20", "--num", "1"]
Case = tuple[str, Callable[[Place], list[str]], str]  # command, arguments, words of the sentence
CASES: list[Case] = [
    ("train", lambda p: [p.config(average="often")], 'average is "often", expected float'),
    ("train", lambda p: [p.config(nothing=1)], "nobody reads nothing"),
    ("train", lambda p: [p.file("not.yaml", "a: [1")], "not.yaml"),
    ("train", lambda p: [p.file("bytes.yaml", b"\x80\x04\x95")], "bytes.yaml"),
    ("train", lambda p: [p.config(model={"target": "os.system", "params": {"command": "true"}})], "os.system"),
    ("train", lambda p: [p.config(), f"out={p.below_a_file}"], "cannot make the run's folder"),
    ("train", lambda p: [p.config(), "--resume", p.bomb], "truncated, or of another program"),
    ("train", lambda p: [p.config(), "--resume", p.bomb_in_zip], "truncated, or of another program"),
    ("train", lambda p: [p.config(), "--resume", p.foreign], "truncated, or of another program"),
    ("train", lambda p: [p.config(), f"codec_weights={p.bomb}"], "bomb.ckpt"),
    ("train", lambda p: [write_config(p.at / "a.yaml", autoencoder_config(p.broken_videos(), p.at))], "3 of 3 videos"),
    ("train", lambda p: [write_config(p.at / "a.yaml", autoencoder_config(p.at / "none", p.at))], "does not exist"),
    ("encode", lambda p: [p.encode_config(shardsize=3)], "nobody reads shardsize"),
    ("encode", lambda p: [p.encode_config(shard_size="many")], 'shard_size is "many", expected int'),
    ("encode", lambda p: [p.encode_config(codec_weights=p.truncated)], "truncated or damaged"),
    ("encode", lambda p: [p.encode_config(codec_weights=p.bomb)], "bomb.ckpt"),
    ("encode", lambda p: [p.encode_config(data={"train": video_set(p.broken_videos())})], "3 of 3 videos"),
    ("encode", lambda p: [p.encode_config(out=p.below_a_file)], "cannot make the folder"),
    *[
        (command, lambda p, made=made, asked=asked: asked(getattr(p, made)), words)
        for command, asked in [
            ("sample_short", lambda model: [model, "--num", "1"]),
            ("sample_long", lambda model: ["--predict", model, *LONG]),
            ("compare_long", lambda model: ["--predict", model, "--variant", "one", *LONG]),
        ]
        for made, words in [
            ("truncated", "truncated"),
            ("foreign", "foreign.safetensors"),
            ("bomb", "bomb.ckpt"),
            ("bomb_in_zip", "zip.ckpt"),
        ]
    ],
    ("sample_short", lambda p: [p.model, "--out", p.below_a_file], "cannot make the folder"),
    ("sample_long", lambda p: ["--predict", p.model, *LONG, "--out", p.below_a_file], "cannot make the folder"),
    ("sample_long", lambda p: ["--predict", p.model, *LONG, "--start", p.file("s.mp4", b"none")], "cannot read"),
    ("sample_long", lambda p: ["--predict", p.model, *LONG, "--start", p.file("s.mp4")], "cannot read"),
    ("compare_long", lambda p: ["--predict", p.model, "--variant", "one", "stepz=3", *LONG], "stepz"),
    *[
        ("convert", lambda p, made=made: [getattr(p, made), *p.conversion], words)
        for made, words in (("bomb", "bomb.ckpt"), ("bomb_in_zip", "holds no autoencoder"), ("truncated", "cut.safetensors"))
    ],
    ("make_toy", lambda p: [p.below_a_file, "--videos", "1"], "a_file"),
    ("make_toy", lambda p: [str(p.at / "toy"), "--videos", "0"], "0"),
    ("score_toy", lambda p: [str(p.at / "nothing")], "nothing"),
    ("score_toy", lambda p: [p.file("v.mp4", b"none")], "v.mp4"),
    ("score_toy", lambda p: [str(p.broken_videos())], "0.mp4"),
    ("benchmark", lambda p: [p.config(nothing=1)], "nobody reads nothing"),
    ("benchmark", lambda p: [p.config(), "--steps", "0"], "--steps 0"),
    ("benchmark", lambda p: [p.config(), "--stage", "data", "--compile"], "have no effect on --stage data"),
]


@pytest.fixture(scope="module")
def whole(made: Path) -> Path:
    """What `made` has, and a trained joint model."""
    if not (made / "joint" / "model.safetensors").exists():
        config = diffusion_config(made / "latents", made, made / "autoencoder" / "model.safetensors")
        assert train.main([write_config(made / "joint.yaml", config)]) == 0
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "arguments", "words"), CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)]
)
def test_bad_input_is_one_sentence(
    command: str, arguments: Callable[[Place], list[str]], words: str, whole: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("sys.argv", ["it"])
    monkeypatch.chdir(tmp_path)
    given = arguments(Place(whole, tmp_path))
    before, made_before = files(tmp_path), files(whole)
    module: ModuleType = COMMANDS[command]
    assert module.main(given) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("it: ")]
    assert len(said) == 1 and words in said[0], said
    assert "Traceback" not in said[0] and len(said[0]) < 600
    left = {name for name in files(tmp_path) if name not in before and not name.endswith("skipped_files.txt")}
    assert not left, f"left behind: {left}"
    assert files(whole) == made_before
    assert not (tmp_path / "BOOM").exists(), "code in a file was run"


def test_every_command_is_tried() -> None:
    assert {case[0] for case in CASES} == COMMANDS.keys()


def test_the_bombs_do_go_off(tmp_path: Path) -> None:
    """The tests above would show nothing with a dud."""
    place = Place(tmp_path, tmp_path)
    pickle.loads(Path(place.bomb).read_bytes())
    assert (tmp_path / "BOOM").exists()
    (tmp_path / "BOOM").unlink()
    torch.load(place.bomb_in_zip, weights_only=False)
    assert (tmp_path / "BOOM").exists()


@pytest.fixture
def full_disk(tmp_path: Path):
    """A disk of 64 KiB, where this machine lets one be made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode:
        pytest.skip("no tmpfs can be made here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("command", ["encode", "sample_short", "sample_long", "make_toy", "train"])
def test_a_full_disk_is_one_sentence(command: str, full_disk: Path, whole: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["it"])
    place, out = Place(whole, tmp_path), str(full_disk / "out")
    (full_disk / "filler").write_bytes(bytes(max(0, shutil.disk_usage(full_disk).free - 4096)))
    arguments = {
        "encode": [place.encode_config(out=out, dtype="float32")],
        "sample_short": [place.model, "--num", "8", "--format", "npz", "--out", out],
        "sample_long": ["--predict", place.model, "--frames", "400", "--num", "1", "--format", "npz", "--out", out],
        "make_toy": [out, "--videos", "4", "--val", "1", "--frames", "40"],
        "train": [place.config(out=out)],
    }[command]
    assert COMMANDS[command].main(arguments) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("it: ")]
    assert len(said) == 1 and "No space left" in said[0], said
    whole_files = [path for path in Path(out).rglob("*") if path.is_file() and path.suffix in (".safetensors", ".npz", ".ckpt")]
    assert not [path for path in Path(out).rglob(".*") if path.is_file()], "half a file is left"
    for path in whole_files:
        assert np.load(path) if path.suffix == ".npz" else os.path.getsize(path) > 0
