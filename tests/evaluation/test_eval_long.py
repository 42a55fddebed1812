"""`scripts/eval.py long`: distances that know what was done to a video after half of its time, of files and of a model."""

import contextlib
import csv
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image
from test_sample_commands import write_model
from torch import Tensor

import lvdm
from lvdm.cli.eval import main
from lvdm.evaluation import frame_curves
from lvdm.evaluation.long import videos as long_videos
from lvdm.evaluation.results.report import compare
from lvdm.evaluation.results.result import read_result
from lvdm.types import UserError

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ("--set", "runs=1", "resolution=null", "resize=none", "antialias=true")  # pixels as they are, the real set once
RANDOM = ("--features", "random", "--allow-fewer")
I3D = (*RANDOM, "--feature-width", "0.125")  # as narrow as sees all that is done to a video here
VIDEOS, FRAMES = 6, 64


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVDM_CACHE", str(tmp_path_factory.getbasetemp() / "features"))


class FewFeatures:
    """Means of a clip's quarters and how much they change: quick where any network does."""

    name, dim, min_frames, max_frames, is_comparable, weights, sha256 = "few features", 15, 1, None, False, None, None

    def __call__(self, clips: Tensor) -> Tensor:
        frames = clips.float().flatten(2, 3).unflatten(2, (4, -1)).mean(dim=3).flatten(2)  # (b, t, 12)
        change = (frames[:, 1:] - frames[:, :-1]).abs().mean(dim=1)[:, :3]
        return torch.cat([frames.mean(dim=1), change], dim=1)


@pytest.fixture
def few_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvdm.jobs.evaluate.make_extractor", lambda name, **options: FewFeatures())


def waves(count: int, frames: int, *, first: int = 0, size: int = 32) -> np.ndarray:
    """(n, t, h, w, 3): soft waves, each in its own direction and colours, about two pixels a frame."""
    videos = []
    y, x = np.mgrid[:size, :size]
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        angle, speed, phases = rng.uniform(0, 2 * np.pi), rng.uniform(1.6, 2.4), rng.uniform(0, 6, size=3)
        moved = (x * np.cos(angle) + y * np.sin(angle))[None] - speed * np.arange(frames)[:, None, None]
        videos.append(128 + 80 * np.stack([np.sin(4 * np.pi * moved / size + phase) for phase in phases], axis=-1))
    return np.stack(videos).round().astype(np.uint8)


def damaged(videos: np.ndarray, how: str) -> np.ndarray:
    """After half of the time."""
    rng, half = np.random.default_rng(0), videos.shape[1] // 2
    made, late = videos.astype(float), videos[:, half:].astype(float)
    if how == "frozen":
        late[:] = videos[:, half - 1 : half]
    elif how == "noise":
        late += 50 * rng.normal(size=late.shape)
    elif how == "tint":
        late[..., 0] += 3 * np.arange(late.shape[1])[:, None, None]
    elif how == "shuffled":
        late = late[:, rng.permutation(late.shape[1])]
    made[:, half:] = late
    return made.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    np.save(folder / "real.npy", waves(VIDEOS, 16, first=100))
    np.save(folder / "fake.npy", waves(VIDEOS, FRAMES))
    return folder


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("runs") / "joint" / "model.safetensors")


def measured(out: Path, *arguments: object) -> dict[str, Any]:
    assert main(["long", "--out", str(out), *map(str, arguments)]) == 0
    return json.loads((out / "result.json").read_text())


def against(data: Path, *arguments: object) -> tuple[object, ...]:
    return ("--real", data / "real.npy", *PLAIN, *arguments)


# What is told ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "curve", "sees"),
    [
        ("clean", "motion", lambda first, last: last == pytest.approx(first, rel=0.05)),
        ("frozen", "motion", lambda first, last: last == 0 and first > 1),
        ("noise", "change", lambda first, last: last > 1.1 * first),
        ("tint", "color_drift", lambda first, last: last > first + 5),
        ("shuffled", "pixel_consistency", lambda first, last: last < 0.8 * first),
    ],
)
def test_distances_rise_with_what_goes_wrong_and_the_right_curve_sees_it(data, tmp_path, how, curve, sees):
    frames = FRAMES if how == "clean" else 32
    np.save(tmp_path / "fake.npy", damaged(waves(VIDEOS, frames), how))
    found = measured(tmp_path, "--fake", tmp_path / "fake.npy", *against(data, *I3D, "--metrics", "fvd"))
    assert list(found["metrics"]) == ["fvd_first_n6", "fvd_last_n6", "fvd_per_100_frames_n6"]
    told = found["long"]["summary"]
    assert sees(told[curve]["first"], told[curve]["last"])
    over_time = found["long"]["over_time"]["fvd_n6"]["mean"]
    if how == "clean":
        assert len(over_time) == 4 and max(over_time) < 1.15 * min(over_time), "flat"
    else:
        assert over_time[1] > 1.25 * over_time[0]


@pytest.mark.usefixtures("few_features")
def test_each_chunk_scores_as_it_does_alone_by_the_same_protocol(data, tmp_path):
    found = measured(tmp_path, "--fake", data / "fake.npy", *against(data, *RANDOM, "--bootstrap", 5))
    for chunk in (0, 3):
        np.save(tmp_path / "chunk.npy", np.load(data / "fake.npy")[:, 16 * chunk : 16 * chunk + 16])
        alone = ["--fake", tmp_path / "chunk.npy", "--out", tmp_path / "alone.json", "--protocol", "lvdm-fvd2048"]
        assert main([*map(str, [*alone, *against(data, *RANDOM, "--bootstrap", 5)])]) == 0
        metrics = json.loads((tmp_path / "alone.json").read_text())["metrics"]
        for metric in ("fvd_n6", "kvd_n6"):
            assert found["long"]["over_time"][metric]["mean"][chunk] == pytest.approx(metrics[metric]["value"], rel=1e-6)
            told = found["metrics"][metric.replace("_", "_last_" if chunk else "_first_")]
            assert told["value"] == pytest.approx(metrics[metric]["value"], rel=1e-6) and told["label"] == "not comparable"
            assert told["interval"] == pytest.approx(metrics[metric]["interval"], rel=1e-6)


@pytest.mark.usefixtures("few_features")
def test_every_run_draws_the_real_clips_anew(data, tmp_path):
    np.save(tmp_path / "real.npy", waves(4, 24, first=50))
    options = ("--protocol", "lvdm-fvd2048", "--set", "runs=2", *RANDOM, "--metrics", "kvd", "--num", 3)
    found = measured(tmp_path, "--fake", data / "fake.npy", "--real", tmp_path / "real.npy", *options)
    runs = found["long"]["over_time"]["kvd_real4_fake3"]["runs"]
    assert np.shape(runs) == (2, 4) and runs[0] != runs[1]
    last = found["metrics"]["kvd_last_real4_fake3"]
    assert (last["value"], last["std"]) == pytest.approx((np.mean(runs, axis=0)[3], np.std(runs, axis=0)[3]))
    slopes = [np.polyfit(np.arange(0, 64, 16) / 100, run, 1)[0] for run in runs]
    assert found["metrics"]["kvd_per_100_frames_real4_fake3"]["value"] == pytest.approx(np.mean(slopes))
    rows = list(csv.DictReader((tmp_path / "over_time.csv").open()))
    assert [float(row["kvd_real4_fake3"]) for row in rows[-4:]] == pytest.approx(np.mean(runs, axis=0), rel=1e-5)
    assert [float(row["kvd_real4_fake3_std"]) for row in rows[-4:]] == pytest.approx(np.std(runs, axis=0), rel=1e-5)


@pytest.mark.usefixtures("few_features")
def test_results_of_one_length_can_be_compared_and_of_two_cannot(data, tmp_path):
    options = ("--fake", data / "fake.npy", *against(data, *RANDOM, "--metrics", "fvd", "--num", 2))
    for frames in (16, 32):
        measured(tmp_path / str(frames), *options, "--frames", frames)
    short, longer = (read_result(tmp_path / str(frames) / "result.json") for frames in (16, 32))
    assert list(short.values) == ["fvd_first", "fvd_last"], "one chunk has no slope"
    assert compare(longer, longer)["fvd_per_100_frames_real6_fake2"].difference == 0
    with pytest.raises(UserError, match="video_frames: 16 and 32"):
        compare(short, longer)


@pytest.mark.usefixtures("few_features")
def test_fvd128_is_that_of_the_first_128_frames(data, tmp_path):
    for name, first in (("real", 0), ("fake", 10)):
        np.save(tmp_path / f"{name}.npy", waves(3, 144, first=first, size=16))
    sources = ("--real", tmp_path / "real.npy", "--fake", tmp_path / "fake.npy")
    options = ("--set", "runs=1", "resolution=null", "resize=none", "antialias=true", *RANDOM, "--metrics", "fvd")
    found = measured(tmp_path / "long", *sources, *options, "--fvd128")
    alone = ["--protocol", "styleganv-fvd2048-128f", *RANDOM, "--out", tmp_path / "alone.json"]
    assert main([str(word) for word in (*sources, *alone)]) == 0
    theirs, ours = (read_result(path) for path in (tmp_path / "alone.json", tmp_path / "long/styleganv-fvd2048-128f.json"))
    assert compare(theirs, ours)["fvd_n3"].difference == pytest.approx(0, abs=1e-6 * theirs.values["fvd"].value)
    assert found["long"]["first_frames"]["metrics"]["fvd_n3"]["value"] == ours.values["fvd"].value


# Sources -----------------------------------------------------------------------------------------------------------------


def test_without_real_videos_the_curves_are_those_of_every_frame(tmp_path, monkeypatch, capsys):
    """Of videos of several lengths, read in small pieces by workers."""
    monkeypatch.setattr(long_videos, "PIECE", 10)
    videos = {"a": waves(1, 40)[0], "b": waves(1, 33, first=1)[0]}
    for name, video in videos.items():
        (tmp_path / "fake" / name).mkdir(parents=True)
        for number, frame in enumerate(video):
            iio.imwrite(tmp_path / "fake" / name / f"{number:03d}.png", frame)
    found = measured(tmp_path, "--fake", tmp_path / "fake", "--workers", 1)
    curves = {name: frame_curves(video) for name, video in videos.items()}
    assert found["long"]["frames"] == {"shortest": 33, "longest": 40} and found["long"]["over_time"] is None
    for name, told in found["long"]["summary"].items():
        assert told["mean"] == pytest.approx(np.mean([np.nanmean(each[name]) for each in curves.values()]), rel=1e-9)
        assert told["last"] == pytest.approx(np.mean([np.mean(each[name][-16:]) for each in curves.values()]), rel=1e-9)
    rows = list(csv.DictReader((tmp_path / "over_time.csv").open()))
    assert [(row["video"], row["frame"]) for row in rows if row["video"] == "b"] == [("b", "0"), ("b", "16"), ("b", "32")]
    said = capsys.readouterr().out
    assert "note: videos of 33 to 40 frames; each curve is of a whole video" in said and "| motion " in said
    with Image.open(tmp_path / "over_time.png") as image:
        assert image.height == 6 * 190


@pytest.mark.usefixtures("few_features")
def test_distances_are_of_the_frames_that_all_videos_have(data, tmp_path):
    (tmp_path / "fake").mkdir()
    for name, frames in (("long", 50), ("short", 40)):
        iio.imwrite(tmp_path / "fake" / f"{name}.gif", waves(1, frames)[0])
    found = measured(tmp_path, "--fake", tmp_path / "fake", *against(data, *RANDOM, "--metrics", "fvd"))
    assert found["long"]["over_time"]["frame"] == [0, 16] and found["video_frames"] == 40
    assert any("distances are of the first 40, which all have" in note for note in found["long"]["notes"])


@pytest.mark.usefixtures("few_features")
def test_a_models_videos_score_on_the_fly_as_the_stored_ones(joint, data, tmp_path):
    made = ("--frames", 40, "--steps", 2, "--seed", 3, "--condition-noise", 50)
    model = ("--fake", joint, "--infill", joint, "--num", 3, "--sample-batch", 1, *made)
    levels = ("--set", "quantise=round", "metrics=[fvd]", *RANDOM)  # as files are written
    found = measured(tmp_path / "model", *model, *against(data), *levels)
    loaded = lvdm.load(joint)
    options = {"frames": 40, "steps": 2, "seed": 3, "condition_noise": 50}
    videos = [np.stack(list(lvdm.sample_long(loaded, loaded, video=video, **options))) for video in range(3)]
    np.save(tmp_path / "stored.npy", np.stack(videos))
    stored = measured(tmp_path / "stored", "--fake", tmp_path / "stored.npy", *against(data), *levels)
    for name, told in stored["long"]["summary"].items():
        near = 1e-3 if name.startswith("fvd") else 0  # rounding to half a level has two ways
        assert found["long"]["summary"][name]["mean"] == pytest.approx(told["mean"], rel=near), name
    assert found["fake"]["seed"] == 3 and found["fake"]["steps"] == 2 and found["fake"]["guidance"] == 0
    assert found["long"]["sampling"]["condition_noise"] == 50 and found["long"]["sampling"]["gap_windows"] > 0
    assert found["fake"]["sha256"].count(" + ") == 1, "of both models"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]


@pytest.mark.usefixtures("one_thread")
def test_two_processes_tell_the_numbers_of_one(joint, data, tmp_path):
    model = ("--fake", joint, "--frames", 32, "--num", 3, "--steps", 2, "--sample-batch", 2)
    narrow = ("--feature-width", "0.03125")
    calls = {
        "files": ("--fake", data / "fake.npy", "--frames", 40, "--num", 5, *against(data, *RANDOM, *narrow)),
        "model": (*model, *against(data, *RANDOM, *narrow)),
    }
    both = [["long", "--out", str(tmp_path / "two" / name), *map(str, words)] for name, words in calls.items()]
    program = (
        "import os, sys; from lvdm.cli.eval import main\n"
        f"for port, words in {list(zip(free_ports(len(both)), both, strict=True))!r}:\n"
        "    os.environ['MASTER_PORT'] = str(port)\n"
        "    assert main(words) == 0\n"
    )
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = {"args": [sys.executable, "-c", program], "stderr": subprocess.PIPE, "text": True}
    pair = [subprocess.Popen(**command, env={**shared, "RANK": str(rank)}) for rank in range(2)]
    ones = {name: measured(tmp_path / "one" / name, *words) for name, words in calls.items()}
    for process in pair:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said[-3000:]
    for name, one in ones.items():
        two = json.loads((tmp_path / "two" / name / "result.json").read_text())
        assert two["machine"]["processes"] == 2
        for metric, told in one["metrics"].items():
            assert two["metrics"][metric]["value"] == pytest.approx(told["value"], rel=1e-6), metric
        assert two["long"]["summary"] == one["long"]["summary"]


# Refusals ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_features")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--protocol", "tats"], "--protocol has no effect without real videos"),
        (["--set", "frames=8"], "--set has no effect without real videos"),
        (["--eta", "0"], "--eta has no effect on videos that are there already"),
        (["--lead-in", "4"], "--lead-in has no effect on videos that are there already"),
        (["--num", "7"], "--num is 7, but there are 6 videos"),
        (["--num", "0"], "--num is 0; give 1 or more"),
        (["--frames", "65"], r"--frames is 65, but 6 of 6 videos have fewer, such as fake.npy\[0\]"),
        (["--real", "{real}", "--features", "random"], "takes 2048 generated videos, not 6; .*--allow-fewer"),
        (["--real", "{real}", *RANDOM, "--num", "1"], "1 video is none"),
        (["--real", "{real}", *RANDOM, "--set", "fake_clips='every window'"], "fake_clips 'every window' has no effect"),
        (["--real", "{real}", "--protocol", "tgan2-is"], "tgan2-is looks at no real videos"),
        (["--real", "{real}", *RANDOM, "--fvd128"], r"fake.npy\[0\] has 64 frames, fewer than the 128"),
    ],
)
def test_what_has_no_effect_or_cannot_be_measured_is_refused(data, tmp_path, capsys, words, sentence):
    words = [word.format(real=data / "real.npy") for word in words]
    assert main(["long", "--fake", str(data / "fake.npy"), "--out", str(tmp_path / "out"), *words]) == 2
    told = capsys.readouterr().err
    assert re.search(sentence, told), told
    assert not list(tmp_path.rglob("*.json"))


def test_a_model_must_be_told_how_many(joint, tmp_path, capsys):
    assert main(["long", "--fake", str(joint), "--out", str(tmp_path)]) == 2
    assert "a model samples any number of videos; give one such as 16" in capsys.readouterr().err
