"""Bad input at every command: one sentence, status 2, nothing half-written, nothing that came in a file is run."""

from __future__ import annotations

import json
import os
import pickle
import runpy
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import CODEC, autoencoder_config, diffusion_config, video_set, write_config

from lvdm.cli import train
from lvdm.evaluation.protocols.named import get_protocol
from lvdm.evaluation.results.result import ExtractorFacts, FakeSource, RealSource, Result, Value

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {script.stem: runpy.run_path(str(script))["main"] for script in sorted((ROOT / "scripts").glob("*.py"))}


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

    @property
    def clips(self) -> str:
        return self.array("clips.npy", np.zeros((2, 16, 8, 8, 3), np.uint8))

    def array(self, name: str, content: Any) -> str:
        np.save(self.at / name, content, allow_pickle=True)
        return str(self.at / name)

    def arrays(self, name: str, **content: Any) -> str:
        np.savez_compressed(self.at / name, **content)
        return str(self.at / name)

    def with_text(self, name: str, member: str, text: str) -> str:
        """An npz with a member that numpy did not write."""
        with zipfile.ZipFile(self.at / name, "w") as file:
            file.writestr(member, text)
        return str(self.at / name)

    def broken_inside(self, name: str) -> str:
        """An npz that opens, but whose content is damaged."""
        content = bytearray(Path(self.arrays(name, a=np.zeros((2, 16, 8, 8, 3), np.uint8))).read_bytes())
        content[60:80] = bytes(20)
        return self.file(name, bytes(content))

    def empty(self) -> str:
        (self.at / "empty").mkdir()
        return str(self.at / "empty")

    def only_test(self) -> str:
        shutil.copytree(self.made / "videos", self.at / "set" / "test")
        return str(self.at / "set")

    def manifest(self, **changed: object) -> str:
        """Of the first two videos, by hand."""
        protocol = get_protocol("tats", extractor="random-i3d", num_real=4, num_fake=4)
        lines = [{"file": f"{i}.mp4", "start": 0, "stride": 1, "frames": 16, "sha256": "0" * 64, "run": 0} for i in range(2)]
        header = {"lvdm_manifest": 1, "clips": 2, "data": "", "protocol": protocol.as_dict()}
        lines[1] |= changed
        return self.file("clips.jsonl", "".join(json.dumps(line) + "\n" for line in [header, *lines]))

    def result(self, name: str = "a.json", **changed: object) -> str:
        extractor = ExtractorFacts("i3d", 400, True, "i3d.pt", "ab" * 32)
        values, fake = {"fvd": Value(9.0), "kvd": Value(1.0)}, FakeSource("array", "a.npy", "cd" * 32)
        made = Result(get_protocol("tats"), values, extractor, 2048, 2048, fake, RealSource("sky", "f0", "12" * 32))
        return self.file(name, json.dumps({**made.as_dict(), **changed}))

    def broken_videos(self) -> Path:
        folder = self.at / "videos"
        folder.mkdir()
        for number in range(3):
            (folder / f"{number}.mp4").write_bytes(b"" if number else b"not a video")
        return folder


def score(p: Place, *more: str, real: str = "", fake: str = "", protocol: str = "tats", features: str = "random") -> list[str]:
    """Arguments of scripts/eval.py that are right but for 2048 clips, of which there are not so many."""
    named = ["--features", features] if features else []
    return ["--real", real or str(p.made / "videos"), "--fake", fake or p.clips, "--protocol", protocol, *named, *more]


LONG = ["--frames", "20", "--num", "1"]
Case = tuple[str, Callable[[Place], list[str]], str]  # command, arguments, words of the sentence
CASES: list[Case] = [
    ("train", lambda p: [p.config(average="often")], 'average is "often", expected float'),
    ("train", lambda p: [p.config(nothing=1)], "nothing is not a setting"),
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
    ("encode", lambda p: [p.encode_config(shardsize=3)], "shardsize is not a setting"),
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
    *[
        ("eval", lambda p, made=made, side=side: score(p, **{side: made(p)}), words)
        for made, words in [
            (lambda p: str(p.at / "none.npy"), "none.npy"),
            (lambda p: str(p.at / "none"), "there is no"),
            (lambda p: p.file("a_file.txt"), "a_file.txt is no source"),
            (lambda p: p.file("a.npy"), "a.npy"),
            (lambda p: p.file("a.npz", b"PK\x03\x04 and then nothing"), "a.npz"),
            (lambda p: p.file("a.npy", Path(p.clips).read_bytes()[:-100]), "a.npy"),
            (lambda p: p.file("a.npz", Path(p.arrays("whole.npz", a=np.zeros(9))).read_bytes()[:-60]), "a.npz"),
            (lambda p: p.broken_inside("a.npz"), "a.npz"),
            (lambda p: p.with_text("a.npz", "note.txt", "no array"), "a.npz holds note.txt"),
            (lambda p: p.arrays("a.npz"), "a.npz holds nothing"),
            (lambda p: p.arrays("a.npz", a=np.zeros(2), b=np.zeros(2)), "a.npz holds a, b"),
            (lambda p: p.array("a.npy", np.zeros((2, 16, 8, 8, 3))), "a.npy holds float64 (2, 16, 8, 8, 3)"),
            (lambda p: p.array("a.npy", np.zeros((2, 16, 8, 8, 4), np.uint8)), "expected uint8 (n, t, h, w, 3)"),
            (lambda p: p.array("a.npy", np.zeros((0, 16, 8, 8, 3), np.uint8)), "holds uint8 (0, 16, 8, 8, 3)"),
            (lambda p: p.array("a.npy", np.array([Bomb(p.at / "BOOM")])), "a.npy"),
            (lambda p: p.arrays("a.npz", a=np.array([Bomb(p.at / "BOOM")])), "a.npz"),
            (lambda p: str(Path(p.bomb).rename(p.at / "a.npz")), "a.npz"),
            (lambda p: str(Path(p.bomb_in_zip).rename(p.at / "a.npz")), "a.npz"),
            (lambda p: p.empty(), "no videos under"),
            (lambda p: str(p.broken_videos()), "3 of 3 videos"),
            (lambda p: p.only_test(), "set has no train, and the split is train"),
            (lambda p: p.file("a.yaml", "out: here"), "a.yaml has no `data`"),
            (lambda p: p.file("a.yaml", "data: [1"), "a.yaml"),
            (lambda p: p.config(), "is LatentClips, expected a VideoFolder"),
            (lambda p: p.encode_config(), "encode.yaml cannot be read as data: data is"),
        ]
        for side in ("real", "fake")
    ],
    *[
        ("eval", lambda p, made=made: score(p, fake=getattr(p, made)), words)
        for made, words in [("truncated", "truncated"), ("foreign", "foreign.safetensors")]
    ],
    ("eval", lambda p: score(p, real=p.model), "only generated videos may come from a model file"),
    ("eval", lambda p: score(p, fake=str(p.made / "autoencoder" / "model.safetensors")), "autoencoder alone"),
    ("eval", lambda p: score(p), "2048 real clips were requested, but 4 videos hold 100"),
    ("eval", lambda p: score(p, "--allow-fewer", real=p.array("s.npy", np.zeros((3, 9, 8, 8, 3), np.uint8))), "3 have fewer"),
    ("eval", lambda p: score(p, "--allow-fewer", "1"), "1 clips have no score; give 2 or more"),
    ("eval", lambda p: score(p, "--allow-fewer", "-4"), "-4 clips have no score; give 2 or more"),
    ("eval", lambda p: score(p, protocol="lvdm-fdv2048"), "did you mean lvdm-fvd2048"),
    ("eval", lambda p: score(p, "--metrics", "fvd,is"), "measures fvd, kvd, not is"),
    ("eval", lambda p: score(p, "--set", "fraems=9"), "did you mean frames"),
    ("eval", lambda p: score(p, "--set", "frames"), "--set frames: expected KEY=VALUE"),
    ("eval", lambda p: score(p, "--set", "frames=[9"), "--set frames=[9: the value is no YAML"),
    ("eval", lambda p: score(p, "--set", "metrics=kvd"), "metrics is 'kvd', expected a list of names"),
    ("eval", lambda p: score(p, "--set", "metrics=3"), "there is no metric '3'"),
    ("eval", lambda p: score(p, "--set", "metrics=[[fvd]]"), "there is no metric"),
    ("eval", lambda p: score(p, "--set", "metrics=[[fvd]]", features=""), "expected a list of names"),
    ("eval", lambda p: score(p, "--set", "seed=4294967296"), "seed is 4294967296, expected 0 to 4294967295"),
    ("eval", lambda p: score(p, "--set", "extractor=i3d"), "say the same; give one"),
    ("eval", lambda p: score(p, protocol="custom", features=""), "a custom protocol changes something"),
    ("eval", lambda p: score(p, protocol="cdfvd2048"), "cdfvd has no random features"),
    ("eval", lambda p: score(p, features="i3d-eps"), "did you mean i3d"),
    ("eval", lambda p: score(p, features=""), "i3d_pretrained_400.pt is not there and LVDM_OFFLINE=1"),
    ("eval", lambda p: score(p, "--feature-width", "0"), "width 0"),
    ("eval", lambda p: score(p, "--feature-seed", "1", features="i3d"), "have no effect"),
    ("eval", lambda p: score(p, protocol="tgan2-is"), "looks at no real videos"),
    ("eval", lambda p: score(p)[2:], "compares with real videos; give real ones"),
    ("eval", lambda p: [*score(p, protocol="styleganv-is")[2:], "--allow-fewer"], "2 clips cannot be scored in 10 splits"),
    ("eval", lambda p: [*score(p, protocol="tgan2-is")[2:], "--allow-fewer"], "2048 generated clips in each of 10 runs"),
    ("eval", lambda p: score(p, "--allow-fewer", "--extrapolate"), "give 802 clips, not 2"),
    ("eval", lambda p: score(p, "--bootstrap", "1"), "--bootstrap is 1, but an interval needs 2 resamples"),
    ("eval", lambda p: score(p, "--bootstrap", "9", protocol="lvdm-fvd2048"), "gives its spread over 10 runs"),
    ("eval", lambda p: score(p, "--batch-size", "0"), "--batch-size is 0, expected an integer of 1 or more"),
    ("eval", lambda p: score(p, "--device", "cuda:99"), "cuda:99"),
    ("eval", lambda p: score(p, "--out", p.below_a_file), "a_file is a file"),
    ("eval", lambda p: score(p, "--out", str(p.at)), "it is a folder"),
    ("eval", lambda p: score(p, "--guidance", "1"), "--guidance has no effect on videos that are there already"),
    ("eval", lambda p: score(p, "--guidance", "1", fake=p.model), "guidance 1 has no effect on clips without label or text"),
    ("eval", lambda p: score(p, "--infill", p.model, fake=p.model), "--infill has no effect on 16 frames"),
    ("eval", lambda p: score(p, "--sample-batch", "0", fake=p.model), "0 videos at once"),
    ("eval", lambda p: score(p, "--steps", "0", fake=p.model), "0"),
    ("eval", lambda p: score(p, "--sampler", "euler", fake=p.model), "the sampler is 'euler'"),
    ("eval", lambda p: score(p, "--set", "fake_clips=every window", fake=p.model), "'every window' has no effect on a model"),
    ("eval", lambda p: score(p, "--allow-fewer", fake=p.model), "give --allow-fewer by a number, such as 256"),
    *[
        ("eval", lambda p, made=made, more=more: score(p, "--set", "num_real=4", "num_fake=4", *more, "--replay", made(p)), words)
        for made, more, words in [
            (lambda p: str(p.at / "none.jsonl"), [], "none.jsonl"),
            (lambda p: p.file("a.jsonl", "{}"), [], "a.jsonl, line 1: this is no manifest"),
            (lambda p: p.manifest(sha256="0"), [], "clips.jsonl, line 3"),
            (lambda p: p.manifest(file="9.mp4"), [], "videos has no 9.mp4"),
            (lambda p: p.manifest(start=30), [], "1.mp4 has 40 frames, and the manifest names frame 45"),
            (lambda p: p.manifest(), [], "holds 2 clips a run, and custom (from tats) takes 4; give --allow-fewer"),
            (lambda p: p.manifest(), ["--allow-fewer", "--feature-width", "0.03"], "0.mp4 from frame 0 has other pixels"),
            (lambda p: p.manifest(), ["ddof=0"], "ddof 1 and 0"),
        ]
    ],
    ("eval", lambda p: ["compare", p.result("a.json"), p.file("b.json", "{")], "b.json is no JSON"),
    ("eval", lambda p: ["compare", p.result("a.json"), p.bomb], "bomb.ckpt"),
    ("eval", lambda p: ["compare", p.result("a.json"), str(p.at / "none.json")], "none.json"),
    ("eval", lambda p: ["compare", p.result("a.json"), p.result("b.json", num_fake=9)], "it was changed by hand"),
    ("eval", lambda p: ["compare", p.result("a.json"), p.result("b.json", metrics={})], "share no metric"),
    ("eval", lambda p: ["protocols", "tat"], "did you mean tats"),
    ("benchmark", lambda p: [p.config(nothing=1)], "nothing is not a setting"),
    ("benchmark", lambda p: [p.config(), "--steps", "0"], "steps 0"),
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
    monkeypatch.setenv("LVDM_CACHE", str(tmp_path.with_name(f"{tmp_path.name}_cache")))
    monkeypatch.setenv("LVDM_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("LVDM_OFFLINE", "1")
    given = arguments(Place(whole, tmp_path))
    before, made_before = files(tmp_path), files(whole)
    assert COMMANDS[command](given) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("it: ", "it compare: ", "it protocols: "))]
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
    assert COMMANDS[command](arguments) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("it: ")]
    assert len(said) == 1 and "No space left" in said[0], said
    whole_files = [path for path in Path(out).rglob("*") if path.is_file() and path.suffix in (".safetensors", ".npz", ".ckpt")]
    assert not [path for path in Path(out).rglob(".*") if path.is_file()], "half a file is left"
    for path in whole_files:
        assert np.load(path) if path.suffix == ".npz" else os.path.getsize(path) > 0
