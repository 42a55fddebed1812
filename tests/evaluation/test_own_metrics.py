"""A user's package adds metrics, extractors and protocols in one file that --allow-module reaches; so does the motion metric."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_evaluation import result_of, saved, toys

from lvdm.cli.eval import main
from lvdm.evaluation import METRICS, PROTOCOLS
from lvdm.evaluation.metrics.motion import Motion
from lvdm.jobs.evaluate import EvalSettings, evaluate, features
from lvdm.models.features import EXTRACTORS
from lvdm.models.features.extractors import add_extractor
from lvdm.types import UserError

# Motion ------------------------------------------------------------------------------------------------------------------


def motion_of(levels: np.ndarray) -> np.ndarray:
    """(32,) of a video of one grey a frame, (t,)."""
    return Motion()(torch.from_numpy(levels).float().view(1, 1, -1, 1, 1).expand(1, 3, -1, 20, 28))[0].numpy()


def test_motion_features_are_the_change_and_the_change_of_the_change() -> None:
    np.testing.assert_allclose(motion_of(np.full(5, 90)), 0, atol=1e-4)
    np.testing.assert_allclose(motion_of(10 + 7 * np.arange(5)), [7] * 16 + [0] * 16, atol=1e-4)  # a steady change
    np.testing.assert_allclose(motion_of(np.array([50, 54, 50, 54])), [4] * 16 + [8] * 16, atol=1e-4)


def test_a_cell_sees_its_own_motion_alone() -> None:
    clip = np.zeros((4, 64, 64, 3), np.uint8)
    clip[1::2, 16:32, 48:64] = 100  # flickers in the second row, last column
    found = features(clip[None], "motion", settings=EvalSettings(device="cpu"))[0]
    assert found.shape == (32,) and np.flatnonzero(found).tolist() == [7, 16 + 7]
    assert found[7] == pytest.approx(100) and found[23] == pytest.approx(200)


def test_the_motion_distance_sees_speed_and_disorder_and_needs_no_weights(tmp_path: Path) -> None:
    real, same = toys(40, frames=16, size=32), toys(40, frames=16, size=32, split="val")
    order = np.random.default_rng(0).permutation(16)
    scores = {}
    for name, fake in {"same": same, "frozen": same[:, :1].repeat(16, axis=1), "shuffled": same[:, order]}.items():
        files = ["--real", saved(tmp_path / "real.npy", real), "--fake", saved(tmp_path / "fake.npy", fake)]
        result = result_of(tmp_path / "it.json", *files, "--protocol", "motion2048", "--allow-fewer", "--no-cache")
        scores[name] = result["metrics"]["fmd_n40"]["value"]
        assert "label" not in result["metrics"]["fmd_n40"] and result["extractor"]["weights"] is None
    assert scores["frozen"] > 5 * scores["same"] and scores["shuffled"] > 5 * scores["same"]


# A user's own ------------------------------------------------------------------------------------------------------------

MODULE = '''
from dataclasses import replace
import torch
from lvdm.evaluation import METRICS, PROTOCOLS, Metric, get_protocol
from lvdm.models.features import EXTRACTORS, ExtractorRecord, Frozen


class Colours(torch.nn.Module):
    def forward(self, video):  # uint8 (b, 3, t, h, w)
        return video.float().mean((2, 3, 4))


EXTRACTORS.add(ExtractorRecord("colours", "mean colours", lambda: Frozen(Colours()), dim=3, min_frames=1, metrics=("fvd", "kvd")))
SHIFT = METRICS.add(
    Metric("shift", "distance of means", "distance", lambda x, y: abs(x.mean(0) - y.mean(0)).sum(), extractors=("colours",))
)
METRICS.add(Metric("level", "mean level of generated clips", "score", lambda fake: fake.mean(), extractors=("colours",)))
MINE = replace(get_protocol("tats"), name="mine", metrics=("shift",), extractor="colours", frames=4, ddof=0, source="", notes="")
IS = get_protocol("tgan2-is")
LEVELS = PROTOCOLS.add(replace(IS, name="levels", metrics=("level",), extractor="colours", frames=4, runs=1, eps=0.0))


class Middle:
    """An extractor that is no record: the middle pixel of the first frame."""

    name, dim, min_frames, max_frames, is_comparable, weights, sha256 = "middle pixel", 3, 1, None, True, None, None

    def __call__(self, clips):
        return clips[:, 0, clips.shape[2] // 2, clips.shape[3] // 2].float()
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module that has not been imported, and two arrays; what it registers is forgotten afterwards."""
    (tmp_path / "own_metrics.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LVDM_CACHE", str(tmp_path / "cache"))
    saved(tmp_path / "real.npy", toys(3))
    saved(tmp_path / "fake.npy", toys(4, split="val"))
    before = [(registry, dict(registry)) for registry in (METRICS, EXTRACTORS, PROTOCOLS)]
    yield
    sys.modules.pop("own_metrics", None)
    for registry, content in before:
        registry.clear()
        registry.update(content)


FILES = ["--real", "real.npy", "--fake", "fake.npy", "--allow-fewer", "3"]
ALLOW = ["--allow-module", "own_metrics"]


@pytest.mark.usefixtures("own")
def test_a_protocol_by_its_path_brings_its_metric_and_extractor() -> None:
    result = result_of(Path("it.json"), *FILES, "--protocol", "own_metrics.MINE", *ALLOW)
    assert result["protocol"]["name"] == "mine" and list(result["metrics"]) == ["shift_n3"]
    assert result["extractor"]["name"] == "colours" and result["extractor"]["dim"] == 3
    fake = np.load("fake.npy")[:3, :4]
    assert 0 < result["metrics"]["shift_n3"]["value"] < fake.max()
    ours = evaluate("real.npy", "fake.npy", "own_metrics.MINE", num=3, settings=EvalSettings(allow=["own_metrics"]))
    assert ours.metrics["shift_n3"].value == result["metrics"]["shift_n3"]["value"]
    assert main(["compare", "it.json", "it.json", *ALLOW]) == 0


@pytest.mark.usefixtures("own")
def test_a_registered_score_is_split_as_the_inception_score_is() -> None:
    result = result_of(
        Path("it.json"), "--fake", "fake.npy", "--protocol", "levels", "--set", "splits=2", "--allow-fewer", *ALLOW
    )
    levels = np.load("fake.npy")[:, :4].mean((1, 2, 3, 4))
    parts = levels.reshape(2, 2).mean(1)
    score = result["metrics"]["level_n4"]
    assert (score["value"], score["std"], score["over"]) == (pytest.approx(parts.mean()), pytest.approx(parts.std()), "splits")
    assert result["metrics"]["level_whole_n4"]["value"] == pytest.approx(levels.mean())


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["colours", "own_metrics.Middle"])
def test_features_may_be_a_registered_extractor_or_a_class_by_its_path(name: str) -> None:
    result = result_of(Path("it.json"), *FILES, "--protocol", "tats", "--metrics", "fvd", "--set", "frames=4",
                       "--features", name, *ALLOW)  # fmt: skip
    assert result["protocol"]["extractor"] == name and result["extractor"]["dim"] == 3
    assert result["protocol"]["name"] == "custom (from tats)" and result["metrics"]["fvd_n3"]["value"] > 0
    if name == "own_metrics.Middle":
        found = features("fake.npy", name, settings=EvalSettings(allow=["own_metrics"], device="cpu"))
        np.testing.assert_array_equal(found, np.load("fake.npy")[:, 0, 8, 8])


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--protocol", "own_metrics.MINE"],
            "own_metrics.MINE is not lvdm's own, and no package of yours may be imported; allow",
        ),
        (
            ["--protocol", "own_metrics.MINE", "--allow-module", "os"],
            "only os may be imported; allow its package by --allow-module",
        ),
        (["--protocol", "own_metrics.MINNE", *ALLOW], "there is no own_metrics.MINNE"),
        (["--protocol", "own_metrics.Colours", *ALLOW], "own_metrics.Colours is a type, expected an EvalProtocol"),
        (
            ["--protocol", "tats", "--features", "own_metrics.Colours", *ALLOW],
            "Colours is no Extractor: it lacks name, dim",
        ),
        (["--protocol", "tats", "--allow-module", "own_metric"], "there is no module own_metric; install it"),
        (["--protocol", "tats", "--set", "metrics=[shiftt]", *ALLOW], "there is no metric 'shiftt'; did you mean shift?"),
        (["--protocol", "motion2048", "--features", "random"], "fmd has no random features, which are those of fvd"),
    ],
)
def test_what_is_not_allowed_or_not_there_is_one_sentence(words: list[str], sentence: str, capsys) -> None:
    assert main([*FILES, *words, "--out", "it.json"]) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("it.json").exists()


@pytest.mark.usefixtures("own")
def test_a_module_that_is_loaded_again_replaces_its_records_and_no_others() -> None:
    own = importlib.import_module("own_metrics")
    before = METRICS["shift"], EXTRACTORS["colours"]
    EXTRACTORS.add(replace(EXTRACTORS["colours"]))
    importlib.reload(own)
    assert (METRICS["shift"], EXTRACTORS["colours"]) != before and METRICS["shift"] is own.SHIFT
    for first in (own.Middle, importlib.reload(own).Middle):
        assert add_extractor("own_metrics.Middle", first) == "own_metrics.Middle"
    with pytest.raises(UserError, match="already another extractor called 'own_metrics.Middle'"):
        add_extractor("own_metrics.Middle", own.Colours)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(UserError, match="already another metric called 'fvd'"):
        METRICS.add(replace(METRICS["kvd"], name="fvd"))
    assert METRICS.add(METRICS["fvd"]) is METRICS["fvd"]
