"""Statistics of a real set: the same distances as of its videos, and a sentence for whatever they cannot be used for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_evaluation import NARROW, result_of, saved, toys, values_of

import lvdm
from lvdm.cli.eval import main
from lvdm.evaluation.statistics import KEY, read_statistics
from lvdm.files import HASH, TENSOR_HASHES, DamagedFile, with_hashes
from lvdm.types import UserError

CHANGES = {"frames": 9, "runs": 2, "num_real": 5, "num_fake": 4, "metrics": ["fvd"]}
SETTINGS = lvdm.EvalSettings(changes=CHANGES, feature_width=1 / 32, device="cpu", is_cached=False)


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    return toys(7)


@pytest.fixture(scope="module")
def found(real: np.ndarray):
    return lvdm.statistics(real, "lvdm-fvd2048", features="random", settings=SETTINGS)


def test_they_give_the_distance_of_the_videos_and_hold_the_mean_and_covariance_of_features(tmp_path, real, found) -> None:
    fake = toys(4, split="val")
    path = tmp_path / "real.safetensors"
    found.save(path)
    of_videos = lvdm.evaluate(real, fake, "lvdm-fvd2048", features="random", settings=SETTINGS)
    of_file = lvdm.evaluate(path, fake, "lvdm-fvd2048", features="random", settings=SETTINGS)
    assert of_file.values["fvd"].value == pytest.approx(of_videos.values["fvd"].value, rel=1e-6)  # singular: roots of rounding
    assert of_file.values["fvd"].std == pytest.approx(of_videos.values["fvd"].std, rel=1e-6)
    assert of_file.real == of_videos.real and of_file.num_real == 5
    as_they_are = {"resolution": None, "resize": "none", "antialias": True}
    whole = replace(SETTINGS, changes={**CHANGES, **as_they_are, "runs": 1, "num_real": 7, "frames": 12})
    lvdm.statistics(real, "lvdm-fvd2048", features="random", settings=whole).save(path, overwrite=True)
    x = lvdm.features(real, "random", settings=SETTINGS).astype(np.float64)  # the whole videos, which one run takes too
    arrays = load_file(path)
    np.testing.assert_allclose(arrays["mean"][0], x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(arrays["covariance"][0], np.cov(x, rowvar=False, ddof=0), rtol=1e-6, atol=1e-6)
    assert read_statistics(path).num_clips == 7


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stride": 2, "frames": 9}, "measured under another protocol: stride 1 and 2; measure the videos"),
        ({"num_real": 4}, "another protocol: num_real 5 and 4"),
        ({"metrics": ["fvd", "kvd"]}, "kvd needs the clips, and statistics hold their mean and covariance; leave it out"),
    ],
)
def test_another_protocol_is_refused(found, changes: dict, sentence: str) -> None:
    settings = replace(SETTINGS, changes={**CHANGES, **changes})
    with pytest.raises(UserError, match=sentence):
        lvdm.evaluate(found, toys(4, frames=20), "lvdm-fvd2048", features="random", settings=settings)


def test_another_network_and_resampling_are_refused(found) -> None:
    other = replace(SETTINGS, feature_seed=1)
    with pytest.raises(UserError, match="have two networks, random-i3d seed 0 .* and random-i3d seed 1"):
        lvdm.evaluate(found, toys(4), "lvdm-fvd2048", features="random", settings=other)
    once = replace(SETTINGS, changes={**CHANGES, "runs": 1})
    known = lvdm.statistics(toys(5), "lvdm-fvd2048", features="random", settings=once)
    with pytest.raises(UserError, match="bootstrap draws from the clips, which statistics do not hold"):
        lvdm.evaluate(known, toys(4), "lvdm-fvd2048", features="random", settings=replace(once, bootstrap=5))


def test_what_chooses_real_videos_has_no_effect_on_statistics(found) -> None:
    for name, settings in (
        ("split", replace(SETTINGS, split="test")),
        ("split", replace(SETTINGS, changes={**CHANGES, "split": "test"})),
        ("replay", replace(SETTINGS, replay=Path("real.manifest.jsonl"))),
    ):
        with pytest.raises(UserError, match=f"{name} has no effect on statistics of real videos; leave it out"):
            lvdm.evaluate(found, toys(4), "lvdm-fvd2048", features="random", settings=settings)


def test_other_generated_clips_are_no_other_protocol(found) -> None:
    settings = replace(SETTINGS, changes={**CHANGES, "num_fake": 3, "fake_clips": "one random a video"})
    assert lvdm.evaluate(found, toys(3), "lvdm-fvd2048", features="random", settings=settings).num_fake == 3


def test_the_command_writes_and_reads_them(tmp_path: Path, real, capsys: pytest.CaptureFixture[str]) -> None:
    videos, fake, file = saved(tmp_path / "real.npy", real), saved(tmp_path / "fake.npy", toys(7, split="val")), "s.safetensors"
    how = ["--protocol", "motion2048", "--allow-fewer", "--no-cache", "--device", "cpu"]
    assert main(["statistics", "--real", videos, *how, "--set", "frames=9", "--out", str(tmp_path / file)]) == 0
    expected = values_of(tmp_path / "a.json", "--real", videos, "--fake", fake, *how, "--set", "frames=9")
    made = result_of(tmp_path / "b.json", "--real", str(tmp_path / file), "--fake", fake, *how, "--set", "frames=9")
    assert made["metrics"]["fmd_n7"]["value"] == pytest.approx(expected["fmd_n7"], rel=1e-6)
    assert not (tmp_path / "b.manifest.jsonl").exists()
    again = ["statistics", "--real", videos, *how, "--set", "frames=9", "--out", str(tmp_path / file)]
    before = (tmp_path / file).read_bytes()
    assert main([*again[:2], str(tmp_path / "none.npy"), *again[3:]]) == 2  # before videos are looked at
    assert "s.safetensors exists and is kept; choose another name, or give --overwrite" in capsys.readouterr().err
    assert (tmp_path / file).read_bytes() == before and main([*again, "--overwrite"]) == 0
    assert main(["statistics", "--real", videos, *how, "--bootstrap", "4", "--out", str(tmp_path / file)]) == 2
    assert "--bootstrap has no effect on statistics" in capsys.readouterr().err
    assert main(["--real", str(tmp_path / file), "--fake", fake, "--protocol", "tats", *NARROW, "--out", "x.json"]) == 2
    assert "measured under another protocol" in capsys.readouterr().err


def test_files_that_hold_none_are_one_sentence(tmp_path: Path, found) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="x.safetensors holds no statistics of real videos"):
        read_statistics(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="a file that ends in .safetensors, not x.npz"):
        found.save(tmp_path / "x.npz")


def test_a_file_that_exists_is_kept(tmp_path: Path, found) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"a model")
    with pytest.raises(UserError, match="model.safetensors exists and is kept; choose another name, or give overwrite=True"):
        found.save(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == b"a model"
    found.save(tmp_path / "model.safetensors", overwrite=True)
    assert read_statistics(tmp_path / "model.safetensors").num_clips == 5


def test_any_flipped_byte_is_refused(tmp_path: Path, found) -> None:
    """But for the spaces that pad the header, every byte counts."""
    whole, path = _content(found, tmp_path / "s.safetensors"), tmp_path / "s.safetensors"
    for place in np.random.default_rng(0).integers(0, len(whole), 40):
        for bit in (0x01, 0x40):
            damaged = bytearray(whole)
            damaged[place] ^= bit
            path.write_bytes(damaged)
            with pytest.raises(UserError, match="s.safetensors (is damaged: |holds no statistics of real videos)"):
                read_statistics(path)
    tensors, facts = _parts(found, path)
    tensors["covariance"][0, 1, 1] *= 2
    save_file(tensors, path, {KEY: json.dumps(facts)})
    with pytest.raises(DamagedFile, match="its tensor covariance is not what was written"):
        read_statistics(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda mean, S: {"mean": mean * np.nan}, "numbers that are not finite"),
        (lambda mean, S: {"covariance": S * np.inf}, "numbers that are not finite"),
        (lambda mean, S: {"covariance": np.triu(S)}, "a covariance that is not symmetric"),
        (lambda mean, S: {"covariance": -S}, "or a negative variance"),
        (lambda mean, S: {"covariance": S.astype(np.float16)}, "covariance float16"),
        (lambda mean, S: {"mean": mean[:, :5]}, r"mean float64 \(2, 5\)"),
        (lambda mean, S: {"mean": mean[:, :5], "covariance": S[:, :5, :5]}, "5 features of 400"),
        (lambda mean, S: {"mean": mean[:1], "covariance": S[:1]}, r"mean float64 \(1, 400\) .* of 2 runs"),
        (lambda mean, S: {"mean": mean[0]}, "mean float64"),
    ],
)
def test_tensors_that_no_measurement_gives_are_refused(tmp_path: Path, found, change, sentence: str) -> None:
    tensors, facts = _parts(found, path := tmp_path / "s.safetensors")
    changed = {name: np.ascontiguousarray(value) for name, value in (tensors | change(**_letters(tensors))).items()}
    _write(path, changed, facts)
    with pytest.raises(UserError, match=f"s.safetensors holds no statistics of real videos .*{sentence}"):
        read_statistics(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_clips": "x"}, "num_clips is 'x', expected an integer"),
        ({"num_clips": -5}, "num_clips is -5"),
        ({"num_clips": 99}, "99 clips of 5"),
        ({"counts": [0, 5]}, "counts is"),
        ({"counts": [5]}, "of 1 runs"),
        ({"counts": []}, "counts is"),
        ({"protocol": None}, "protocol is None, expected a mapping"),
        ({"extractor": []}, "extractor is .*, expected a mapping"),
        ({"source": {}}, "source lacks name"),
        ({"format": 2}, "format 2"),
    ],
)
def test_facts_that_no_measurement_gives_are_refused(tmp_path: Path, found, change: dict, sentence: str) -> None:
    tensors, facts = _parts(found, path := tmp_path / "s.safetensors")
    _write(path, tensors, facts | change)
    with pytest.raises(UserError, match=sentence):
        read_statistics(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "3", "[" * 100_000, "{}", '{"format": 1}'])
def test_foreign_descriptions_are_one_sentence(tmp_path: Path, found, text: str) -> None:
    tensors, _ = _parts(found, path := tmp_path / "s.safetensors")
    save_file(tensors, path, {KEY: text})
    with pytest.raises(UserError, match="s.safetensors holds no statistics of real videos"):
        read_statistics(path)


def _content(found, path: Path) -> bytes:
    found.save(path, overwrite=True)
    return path.read_bytes()


def _parts(found, path: Path) -> tuple[dict[str, np.ndarray], dict]:
    found.save(path, overwrite=True)
    with safe_open(path, "numpy") as file:
        return load_file(path), json.loads(file.metadata()[KEY])


def _letters(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"mean": tensors["mean"], "S": tensors["covariance"]}


def _write(path: Path, tensors: dict[str, np.ndarray], facts: dict) -> None:
    """Write a file that is whole by its hashes."""
    plain = {key: value for key, value in facts.items() if key not in (HASH, TENSOR_HASHES)}
    hashed = with_hashes(plain, {name: torch.from_numpy(value) for name, value in tensors.items()})
    save_file(tensors, path, {KEY: json.dumps(hashed)})
