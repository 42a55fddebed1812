"""What results say of their videos, clips, models and machine, against what is known of them beforehand."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_results import C3D, I3D, MODEL, RANDOM, REAL, inception, result
from test_sample_commands import write_model
from tiny_evaluation import WIDTH, toys
from tiny_training import write_videos

import lvdm
from lvdm.checkpoints.model_file import read_model, save_model
from lvdm.evaluation.metrics.scores import ScoreOptions
from lvdm.evaluation.protocols.manifest import pixels_sha256, read_manifest
from lvdm.evaluation.results.provenance import FakeSource
from lvdm.evaluation.results.report import compare
from lvdm.evaluation.results.result import Result, Value, read_result
from lvdm.evaluation.sources.stored import content_sha256, stored_as
from lvdm.evaluation.sources.videos import open_source
from lvdm.jobs.evaluate import EvalSettings, evaluate
from lvdm.processes import machine
from lvdm.types import UserError

CHANGES = {"frames": 9, "runs": 1, "resolution": None, "resize": "none", "antialias": True}
SETTINGS = EvalSettings(CHANGES, feature_width=WIDTH, device="cpu", is_cached=False)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three mp4 files of 12 frames, 16 pixels a side."""
    return write_videos(tmp_path_factory.mktemp("films") / "videos", count=3, frames=12, size=16)


def measured(real: object, fake: object, **options: object) -> Result:
    return evaluate(real, fake, allow_fewer=True, features="random", **{"settings": SETTINGS, **options})


# Videos -------------------------------------------------------------------------------------------------------------------


def test_the_hash_of_a_folder_is_that_of_its_content(tmp_path: Path) -> None:
    """A byte that changes neither a name nor a size changes it; where the folder lies does not."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        lvdm.save_video(toys(1, frames=9)[0], tmp_path / folder / "0.mp4", fps=8)
    a, b = (open_source(tmp_path / folder, split="train") for folder in ("a", "b"))
    assert content_sha256(a) == content_sha256(b)
    content = bytearray((tmp_path / "b" / "0.mp4").read_bytes())
    content[-1] ^= 1
    (tmp_path / "b" / "0.mp4").write_bytes(content)
    assert a.fingerprint() == b.fingerprint(), "names and sizes are those of before"
    assert content_sha256(a) != content_sha256(b)


def test_a_result_says_how_both_sides_are_stored_and_what_was_skipped(films: Path, tmp_path: Path) -> None:
    for path in films.glob("*.mp4"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "fifth.mp4").write_bytes((films / sorted(path.name for path in films.glob("*.mp4"))[0]).read_bytes())
    found = measured(tmp_path, toys(2))
    assert found.real is not None and found.real.stored is not None and found.fake.stored is not None
    stored = found.real.stored
    assert stored["sizes"] == {"16x16": 4} and stored["codecs"] == {"h264": 4}
    assert stored["fps"] == {f"{lvdm_fps(films):g}": 4}
    assert (stored["num_skipped"], stored["skipped"]) == (1, ["broken.mp4"])
    assert found.fake.stored["sizes"] == {"16x16": 2} and found.fake.stored["num_skipped"] == 0
    found.save(tmp_path / "it.json")
    assert read_result(tmp_path / "it.json") == found


def lvdm_fps(films: Path) -> float:
    """By ffmpeg, through imageio."""
    import imageio.v3 as iio

    return float(iio.immeta(sorted(films.glob("*.mp4"))[0], plugin="FFMPEG")["fps"])


def test_the_clips_of_both_sides_are_named_with_the_hash_of_their_pixels(tmp_path: Path) -> None:
    real, fake = toys(3), toys(4, split="val")
    found = measured(real, fake)
    found.save(tmp_path / "it.json")
    lines = read_manifest(tmp_path / "it.generated.jsonl").clips
    assert [line.file for line in lines] == [f"array[{video}]" for video in range(4)]
    assert [line.sha256 for line in lines] == [pixels_sha256(video[:9]) for video in fake]
    text = (tmp_path / "it.generated.jsonl").read_text().split("\n", 1)[1]
    assert found.fake.clips_sha256 == hashlib.sha256(text.encode()).hexdigest()
    other = fake.copy()
    other[0, 3, 0, 0, 0] ^= 1
    assert measured(real, other).fake.clips_sha256 != found.fake.clips_sha256


def test_folders_of_images_say_their_format(tmp_path: Path) -> None:
    from PIL import Image

    for frame in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(tmp_path / "a" / f"{frame}.jpg")
    found = stored_as(open_source(tmp_path, split="train"), [0, 0])
    assert found == {"sizes": {"12x8": 1}, "fps": {}, "codecs": {"jpg": 1}, "num_skipped": 0, "skipped": []}


# Models -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("runs") / "joint" / "model.safetensors")


def described(model: Path, out: Path, **changes: object) -> FakeSource:
    info, tensors = read_model(model)
    save_model(out, tensors, replace(info, **changes))
    loaded = lvdm.load(out)
    return FakeSource.of_model([out], loaded.solver(), guidance=0.0, seed=0)


@pytest.mark.parametrize(("config", "is_ema"), [({"average": 0.999}, True), ({"average": 0}, False), ({}, None)])
def test_averaged_weights_are_said_only_where_the_file_knows(config, is_ema, model: Path, tmp_path: Path) -> None:
    """Also of text models: whatever the model reads, the file says it."""
    assert described(model, tmp_path / "m.safetensors", config=config).is_ema is is_ema


def test_the_step_of_a_model_file_is_that_of_the_file(model: Path, tmp_path: Path) -> None:
    assert described(model, tmp_path / "a.safetensors", step=123).step == 123
    described(model, tmp_path / "b.safetensors", step=7)
    solver = lvdm.load(model).solver()
    both = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    assert FakeSource.of_model(both, solver, guidance=0.0, seed=0).step == "123 + 7"
    assert FakeSource.of_model(both[:1] * 2, solver, guidance=0.0, seed=0).step == 123


def test_a_name_is_no_path_and_a_changed_model_is_not_its_file(model: Path) -> None:
    loaded = lvdm.load(model)
    assert SETTINGS.open_model(loaded)[1] == model and SETTINGS.open_model(replace(loaded, name="mine"))[1] == model
    built = replace(loaded, loaded=None)
    assert built.name == str(model) and SETTINGS.open_model(built)[1] is None
    other = replace(loaded, denoiser=lvdm.load(model).denoiser)
    assert other.path is None, "its weights may be others than the file's"


# The measurement ----------------------------------------------------------------------------------------------------------


def test_the_device_is_the_one_that_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"GPU {device}")
    assert machine("cpu")["device"] == "cpu" and machine(torch.device("cuda:1"))["device"] == "GPU cuda:1"
    assert machine()["device"] == "GPU cuda:0"
    assert measured(toys(2), toys(2)).machine["device"] == "cpu", "as --device cpu asks"


def test_settings_of_intervals_and_of_extrapolation_are_recorded(tmp_path: Path) -> None:
    found = measured(toys(3), toys(3), settings=replace(SETTINGS, bootstrap=5))
    assert found.scoring == {"bootstrap": {"resamples": 5, "level": 0.95, "seed": 0}, "extrapolate": None}
    found.save(tmp_path / "it.json")
    assert json.loads((tmp_path / "it.json").read_text())["scoring"] == found.scoring
    from lvdm.evaluation.measure import scoring

    line = scoring(ScoreOptions(("fvd",), extrapolate=True))["extrapolate"]
    assert set(line) == {"points", "smallest"}


@pytest.mark.parametrize(
    ("made", "is_comparable"),
    [
        (result(), True),
        (inception(), True),
        (result(extractor=RANDOM), False),
        (inception(extractor=replace(C3D, is_comparable=False)), False),
        # Pixels need no network, so a random one changes nothing; with R-FVD among the numbers, not all can be compared.
        (result(fake=FakeSource("reconstruction", "ae", "12" * 32), extractor=RANDOM, values={"ssim": Value(0.9)}), True),
        (
            result(
                fake=FakeSource("reconstruction", "ae", "12" * 32),
                extractor=RANDOM,
                values={"ssim": Value(0.9), "r_fvd": Value(9.0)},
            ),
            False,
        ),
    ],
)
def test_a_result_is_comparable_if_all_its_numbers_are(made: Result, is_comparable: bool) -> None:
    assert made.is_comparable is is_comparable
    labels = [value.get("label") for value in made.as_dict()["metrics"].values()]
    assert ("not comparable" not in labels) is is_comparable


def test_other_splits_are_refused_and_results_of_earlier_versions_are_compared() -> None:
    trained, tested = (result(real=replace(REAL, split=split)) for split in ("train", "test"))
    with pytest.raises(UserError, match="split of the real videos: train and test"):
        compare(trained, tested)
    assert compare(trained, result())["fvd"].difference == 0


def test_a_result_of_the_first_version_is_read(tmp_path: Path) -> None:
    """As lvdm wrote it before it recorded splits, storage and clips."""
    said = json.loads(json.dumps(result(extractor=I3D, fake=MODEL).as_dict()))
    del said["scoring"]
    for side, later in (("real", ("split", "stored")), ("fake", ("clips_sha256", "stored"))):
        for key in later:
            del said[side][key]
    for key in ("long_side", "crop"):
        del said["protocol"][key]
    said["protocol"] |= {"split": "train+test", "name": "custom (from lvdm-fvd2048)"}
    (tmp_path / "old.json").write_text(json.dumps(said))
    read = read_result(tmp_path / "old.json")
    assert read.protocol is not None and read.protocol.name == "lvdm-fvd2048", "another split makes no protocol custom"
    assert read.values == result().values and read.real == REAL and read.fake == MODEL
