"""scripts/eval.py: its numbers are those of the plain functions, the same however they are reached, and say what they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from tiny_evaluation import NARROW, SHORT, WIDTH, manifest_of, result_of, saved, toys, values_of
from tiny_training import diffusion_config, write_config

from lvdm.cli import train
from lvdm.cli.eval import main
from lvdm.evaluation import METRICS, inception_score, polynomial_mmd
from lvdm.evaluation.protocols.named import PROTOCOLS
from lvdm.models.features import EXTRACTORS, c3d, extractors, i3d, make_extractor
from lvdm.models.features.i3d import I3D
from lvdm.models.features.weights import KNOWN, sha256_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["it"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LVDM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def real(tmp_path: Path) -> str:
    return saved(tmp_path / "real.npy", toys(4, frames=12))


@pytest.fixture
def fake(tmp_path: Path) -> str:
    return saved(tmp_path / "fake.npy", toys(5, frames=10, split="val"))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


# Numbers -----------------------------------------------------------------------------------------------------------------


def features_of(clips: np.ndarray, name: str = "random-i3d", **options: object) -> np.ndarray:
    return make_extractor(name, **{"width": WIDTH, **options})(torch.from_numpy(clips)).double().numpy()


def textbook_frechet(x: np.ndarray, y: np.ndarray) -> float:
    roots = sqrtm(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False)).real
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(np.cov(x, rowvar=False) + np.cov(y, rowvar=False) - 2 * roots))


def test_fvd_and_kvd_are_those_of_the_clips_that_the_manifest_names(real: str, fake: str, tmp_path: Path) -> None:
    """Two runs: other real clips in each, the same generated ones; mean and deviation over them."""
    arguments = ["--real", real, "--fake", fake, "--protocol", "lvdm-fvd2048", *NARROW, "--allow-fewer", "3", *SHORT]
    result = result_of(tmp_path / "it.json", *arguments, "runs=2", "resolution=null", "resize=none", "antialias=true")
    manifest, videos = manifest_of(tmp_path / "it.json"), np.load(real)
    y = features_of(np.load(fake)[:3, :9])
    fvd, kvd = [], []
    for run in (0, 1):
        lines = manifest.of_run(run)
        numbers = [int(line.file.removeprefix("real.npy[").removesuffix("]")) for line in lines]
        assert len(set(numbers)) == 3
        x = features_of(np.stack([videos[n, line.start : line.start + 9] for n, line in zip(numbers, lines, strict=True)]))
        fvd.append(textbook_frechet(x, y))
        kvd.append(polynomial_mmd(x, y))
    assert manifest.of_run(0) != manifest.of_run(1)
    for name, values in (("fvd_n3", fvd), ("kvd_n3", kvd)):
        told = result["metrics"][name]
        assert (told["value"], told["std"]) == pytest.approx((np.mean(values), np.std(values)), rel=1e-4), name
        assert told["over"] == "runs" and told["label"] == "not comparable"


def test_inception_scores_of_runs_are_of_different_videos(tmp_path: Path) -> None:
    clips = toys(8, frames=16)
    arguments = ["--fake", saved(tmp_path / "fake.npy", clips), "--protocol", "tgan2-is", *NARROW, "--allow-fewer"]
    told = result_of(tmp_path / "it.json", *arguments, "--set", "runs=2")["metrics"]
    p = features_of(clips, "random-c3d")
    first, second = (inception_score(half, splits=1, shuffle_seed=None, eps=1e-20).mean for half in (p[:4], p[4:]))
    assert first != pytest.approx(second, rel=1e-3)
    assert told["is_n4"]["value"] == pytest.approx((first + second) / 2, rel=1e-5)
    assert told["is_n4"]["std"] == pytest.approx(abs(first - second) / 2, rel=1e-3)


@pytest.fixture(scope="module")
def model(made: Path) -> str:
    path = made / "joint" / "model.safetensors"
    if not path.exists():
        config = diffusion_config(made / "latents", made, made / "autoencoder" / "model.safetensors")
        assert train.main([write_config(made / "joint.yaml", config)]) == 0
    return str(path)


@pytest.mark.parametrize("source", ["array", "model"])
def test_neither_batch_size_nor_workers_change_a_number(source: str, real: str, fake: str, model: str, tmp_path: Path) -> None:
    arguments = ["--real", real, "--protocol", "tats", *NARROW, "--allow-fewer", "4", *SHORT, "--no-cache"]
    arguments += ["--fake", fake if source == "array" else model]
    own = "--sample-batch" if source == "model" else "--batch-size"
    expected = values_of(tmp_path / "it.json", *arguments)
    for more in (["--batch-size", "1"], [own, "3", "--workers", "2"]):
        assert values_of(tmp_path / "it.json", *arguments, *more) == pytest.approx(expected, rel=1e-6), more


BOTH = """
import sys
from lvdm.processes import process_group
from lvdm.cli.eval import main
real, array, model, *arguments = sys.argv[1:]
with process_group():
    for name, fake in (("array", array), ("model", model)):
        assert main(["--real", real, "--fake", fake, "--out", f"two_{name}.json", "--json", f"{name}.json", *arguments]) == 0
"""


@pytest.mark.usefixtures("one_thread")
def test_two_processes_give_the_numbers_of_one(real: str, fake: str, model: str, tmp_path: Path) -> None:
    """Three clips over two processes, of files and of a model."""
    arguments = ["--protocol", "tats", *NARROW, "--allow-fewer", "3", *SHORT, "--no-cache"]
    (tmp_path / "both.py").write_text(BOTH)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "both.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, real, fake, model, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name, source in (("array", fake), ("model", model)):
        alone = result_of(tmp_path / "one.json", "--real", real, "--fake", source, *arguments)
        two = json.loads((tmp_path / f"two_{name}.json").read_text())
        for metric, told in alone["metrics"].items():
            assert two["metrics"][metric]["value"] == pytest.approx(told["value"], rel=1e-6), (name, metric)
        assert (two["machine"].pop("processes"), alone["machine"].pop("processes")) == (2, 1)
        assert two["real"] == alone["real"] and two["fake"] == alone["fake"]
        assert json.loads((tmp_path / f"{name}.json").read_text())["metrics"] == two["metrics"]
    assert done.stdout.count("result: ") == 2, "one of the two tells"


# Replay ------------------------------------------------------------------------------------------------------------------


def test_a_replay_takes_the_same_clips_and_names_a_video_that_changed(real: str, fake: str, tmp_path: Path, capsys) -> None:
    arguments = ["--real", real, "--fake", fake, "--protocol", "tats", *NARROW, "--allow-fewer", "3", *SHORT]
    first = result_of(tmp_path / "first.json", *arguments)
    replay = [*arguments, "--replay", str(tmp_path / "first.manifest.jsonl")]
    again = result_of(tmp_path / "again.json", *replay)
    assert again["metrics"] == first["metrics"] and again["real"] == first["real"]
    clip = manifest_of(tmp_path / "first.json").clips[1]
    videos = np.load(real)
    number = int(clip.file.removeprefix("real.npy[").removesuffix("]"))
    videos[number, clip.start + 4, 0, 0, 0] ^= 1
    saved(Path(real), videos)
    said = refusal(capsys, *replay, "--out", "changed.json")
    assert f"real.npy[{number}] from frame" in said and "has other pixels than the manifest says" in said
    assert not (tmp_path / "changed.json").exists()


# What a number is called -------------------------------------------------------------------------------------------------


def test_fewer_clips_are_an_error_unless_allowed_and_then_rename_the_metric(fake: str, tmp_path: Path, capsys) -> None:
    arguments = ["--real", fake, "--fake", fake, "--protocol", "tats", *NARROW, *SHORT]
    said = refusal(capsys, *arguments, "num_real=5", "num_fake=6")
    assert "6 generated clips were requested, but 5 videos hold 5" in said
    result = result_of(tmp_path / "it.json", *arguments, "num_real=5", "num_fake=6", "--allow-fewer")
    assert list(result["metrics"]) == ["fvd_n5", "kvd_n5"]
    result = result_of(tmp_path / "it.json", *arguments, "num_real=4", "num_fake=6", "--allow-fewer")
    assert list(result["metrics"]) == ["fvd_real4_fake5", "kvd_real4_fake5"]
    whole = result_of(tmp_path / "it.json", *arguments, "num_real=5", "num_fake=5")
    assert list(whole["metrics"]) == ["fvd", "kvd"]


def test_what_is_set_is_called_custom_everywhere_and_takes_no_result_s_place(real: str, fake: str, capsys) -> None:
    assert main(["--real", real, "--fake", fake, "--protocol", "tats", *NARROW, "--allow-fewer", "2", *SHORT]) == 0
    told = capsys.readouterr().out
    assert "| custom (from tats) v2 |" in told and "& custom (from tats) v2 &" in told
    assert "result: results/fake-tats-custom.json" in told
    said = json.loads(Path("results/fake-tats-custom.json").read_text())
    assert said["protocol"]["name"] == "custom (from tats)"
    assert "differs from tats in extractor 'i3d' and 'random-i3d'; frames 16 and 9" in said["warnings"][1]
    before = {path.name: path.read_bytes() for path in Path("results").iterdir()}
    other = ["--real", real, "--fake", fake, "--protocol", "tats", *NARROW, "--allow-fewer", "3", *SHORT]
    assert main(other) == main(other) == 0
    told = capsys.readouterr().out
    assert "result: results/fake-tats-custom-2.json" in told and "result: results/fake-tats-custom-3.json" in told
    assert {name: Path("results", name).read_bytes() for name in before} == before, "the first result is kept"
    assert json.loads(Path("results/fake-tats-custom-2.json").read_text())["num_fake"] == 3
    assert Path("results/fake-tats-custom-3.manifest.jsonl").is_file()


def test_compare_tells_the_difference_and_where_conditions_differ(real: str, fake: str, tmp_path: Path, capsys) -> None:
    arguments = ["--real", real, "--protocol", "tats", *NARROW, "--allow-fewer", "4", *SHORT]
    a = values_of(tmp_path / "a.json", *arguments, "--fake", fake)
    b = values_of(tmp_path / "b.json", *arguments, "--fake", real)
    result_of(tmp_path / "c.json", *arguments, "ddof=0", "--fake", fake)
    capsys.readouterr()
    assert main(["compare", "a.json", "b.json", "--json", "told.json"]) == 0
    assert "fvd_n4: " in capsys.readouterr().out
    told = json.loads((tmp_path / "told.json").read_text())["differences"]
    assert {name: each["difference"] for name, each in told.items()} == pytest.approx({name: b[name] - a[name] for name in a})
    said = refusal(capsys, "compare", "a.json", "c.json")
    assert said.startswith("it compare: these results cannot be compared, because they differ in protocol: ddof 1 and 0;")


# Protocols and weights ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two real videos and 20 generated ones, each as long as the longest protocol takes."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("long")
    levels = [rng.integers(0, 256, (count, 1024, 4, 4, 3), dtype=np.uint8) for count in (2, 20)]
    real, fake = saved(folder / "real.npy", levels[0]), saved(folder / "fake.npy", levels[1])
    return real, fake


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_every_named_protocol_runs(name: str, long_videos: tuple[str, str], tmp_path: Path, monkeypatch) -> None:
    """At two clips, or as many as it has splits, with random features; the published networks are told apart by them alone."""
    protocol, (real, fake) = PROTOCOLS[name], long_videos
    narrow = partial(EXTRACTORS["random-i3d"].load, 0, WIDTH)
    monkeypatch.setitem(EXTRACTORS, "videomae", replace(EXTRACTORS["videomae"], load=narrow, weights={}, dim=400))
    features = [] if METRICS[protocol.metrics[0]].random is None else NARROW
    clips = max(2, protocol.splits)
    arguments = ["--fake", fake, "--protocol", name, *features, "--allow-fewer", str(clips)]
    result = result_of(tmp_path / "it.json", *arguments, *(["--real", real] if protocol.uses_real else []))
    changed = {key for key, value in protocol.as_dict().items() if result["protocol"][key] != value}
    assert changed == (set() if not features else {"name", "extractor"})
    assert set(protocol.metrics) <= {metric.split("_")[0] for metric in result["metrics"]}
    assert all(metric.endswith(f"_n{clips}") for metric in result["metrics"]) and result["num_fake"] == clips
    if protocol.uses_real:
        lines = manifest_of(tmp_path / "it.json").clips
        assert {(line.frames, line.stride) for line in lines} == {(protocol.frames, protocol.stride)}


def test_fvd_by_a_file_of_weights_with_the_published_names(tmp_path: Path, monkeypatch) -> None:
    """All 287, at a quarter of the width (test_i3d has the published sizes), by a protocol that nothing was changed in."""
    monkeypatch.setenv("LVDM_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(i3d, "I3D", partial(I3D, width=1 / 4))
    network = extractors.random_i3d(3, width=1 / 4)
    tensors = {name: value for name, value in network.state_dict().items() if "num_batches_tracked" not in name}
    assert len(tensors) == 287
    torch.save(tensors, path := tmp_path / "i3d_pretrained_400.pt")
    monkeypatch.setitem(KNOWN, path.name, replace(KNOWN[path.name], sha256=sha256_of(path)))
    clips = toys(4, frames=16)
    sides = ["--real", saved(tmp_path / "real.npy", clips[:2]), "--fake", saved(tmp_path / "fake.npy", clips[2:])]
    result = result_of(tmp_path / "it.json", *sides, "--protocol", "lvdm-fvd2048", "--allow-fewer")
    assert result["protocol"]["name"] == "lvdm-fvd2048" and result["extractor"]["is_comparable"]
    assert result["extractor"]["name"] == "i3d eps 1e-05 stretch224" and len(result["extractor"]["sha256"]) == 64
    by_hand = I3D(eps=1e-5, width=1 / 4).eval()
    by_hand.load_state_dict(tensors, strict=False)
    video = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float()
    resized = torch.nn.functional.interpolate(video.flatten(1, 2), (256, 256), mode="bilinear").floor().unflatten(1, (3, 16))
    small = torch.nn.functional.interpolate(resized.flatten(1, 2), (224, 224), mode="bilinear").unflatten(1, (3, 16))
    with torch.no_grad():
        x = torch.cat([by_hand(clip[None] / 127.5 - 1) for clip in small]).double().numpy()
    assert result["metrics"]["fvd_n2"]["value"] == pytest.approx(textbook_frechet(x[:2], x[2:]), rel=1e-3)
    assert "label" not in result["metrics"]["fvd_n2"]


def test_is_by_files_of_weights_with_the_published_names(tmp_path: Path, monkeypatch) -> None:
    """All ten runs, at an eighth of the width; a file of the published size is read in test_c3d."""
    monkeypatch.setenv("LVDM_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(c3d, "C3D", partial(c3d.C3D, width=1 / 8))
    tensors = extractors.random_c3d(3, width=1 / 8).state_dict()
    kinds = {"weight": "W", "bias": "b"}
    named = {"/".join((name.split(".")[0], kinds[name.split(".")[1]])): value.numpy() for name, value in tensors.items()}
    np.savez(tmp_path / "conv3d_deepnetA_ucf.npz", **named)
    np.savez(tmp_path / "mean2.npz", mean=np.full((3, 16, 128, 171), 110, np.float32))
    clips = toys(20, frames=16)
    fake = saved(tmp_path / "fake.npy", clips)
    result = result_of(tmp_path / "it.json", "--fake", fake, "--protocol", "tgan2-is", "--allow-fewer")
    assert result["protocol"]["name"] == "tgan2-is" and list(result["metrics"]) == ["is_n2", "is_whole_n2"]
    assert result["extractor"]["weights"] == "conv3d_deepnetA_ucf.npz + mean2.npz"
    p = features_of(clips, "c3d", width=1.0).reshape(10, 2, 101)
    scores = [np.exp(np.mean([np.sum(q * np.log(q / pair.mean(0))) for q in pair])) for pair in p]
    assert np.std(scores) > 1e-3, "scores that differ"
    told = result["metrics"]["is_n2"]
    assert (told["value"], told["std"]) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-4)
