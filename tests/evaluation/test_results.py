"""Results: every number with its provenance, named after its counts; told in a table, compared only under equal conditions."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lvdm.evaluation.protocols.manifest import Manifest
from lvdm.evaluation.protocols.named import PROTOCOLS, get_protocol
from lvdm.evaluation.results.report import compare, table_line
from lvdm.evaluation.results.result import ExtractorFacts, FakeSource, RealSource, Result, Value, read_result
from lvdm.types import UserError
from lvdm.version import __version__

I3D = ExtractorFacts("i3d eps 1e-05 stretch224", 400, True, "i3d_pretrained_400.pt", "ab" * 32)
RANDOM = ExtractorFacts("i3d random seed 0", 400, False)
C3D = ExtractorFacts("c3d", 101, True, "conv3d_deepnetA_ucf.npz", "cd" * 32)
REAL = RealSource("sky", "f00d", "12" * 32)
MODEL = FakeSource("model", "model.safetensors", "34" * 32, "ddim", 50, 1.0, 0.0, True, 7)
RUN = FakeSource("run", "sky", "34" * 32, "ddim", 50, 1.0, 0.0, False, 7, step=2000, config_sha256="56" * 32)
FVD = {"fvd": Value(95.234, std=1.306, over="runs"), "kvd": Value(12.3456, interval=(11.0, 14.0), level=0.95)}


def result(**changes: object) -> Result:
    made = Result(PROTOCOLS["lvdm-fvd2048"], FVD, I3D, 2048, 2048, MODEL, REAL, machine={"device": "cpu"})
    return replace(made, **changes)


def inception(**changes: object) -> Result:
    values = {"is": Value(60.0, std=1.0, over="runs")}
    return replace(Result(PROTOCOLS["tgan2-is"], values, C3D, 0, 2048, FakeSource("array", "a.npz", "56" * 32)), **changes)


@pytest.mark.parametrize("made", [result(), result(num_real=512, num_fake=512, extractor=RANDOM), inception(), result(fake=RUN)])
def test_a_result_survives_its_file(tmp_path: Path, made: Result) -> None:
    made.save(tmp_path / "runs" / "fvd.json")
    assert read_result(tmp_path / "runs" / "fvd.json") == made
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["fvd.json"]


@pytest.mark.parametrize("broken", ["r.json", "r.manifest.jsonl", "r.generated.jsonl"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_result_and_its_manifests_are_written_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, earlier: bool
) -> None:
    empty = Manifest(PROTOCOLS["lvdm-fvd2048"], "f00d", ())
    made = result(manifest=empty, generated=replace(empty, data="beef"))
    if earlier:
        result(num_real=7, manifest=replace(empty, data="old"), generated=empty).save(tmp_path / "r.json")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    sync = os.fsync

    def full(file: int) -> None:
        if any(os.path.samestat(os.fstat(file), path.stat()) for path in tmp_path.glob(f".{broken}.*")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=f"cannot write .*{broken}: the disk is full"):
            made.save(tmp_path / "r.json")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    made.save(tmp_path / "r.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.generated.jsonl", "r.json", "r.manifest.jsonl"]
    assert read_result(tmp_path / "r.json") == made and "beef" in (tmp_path / "r.generated.jsonl").read_text()


def test_a_result_is_saved_to_a_path() -> None:
    for path in (3, None, ""):
        with pytest.raises(UserError, match="path is .*, expected a path"):
            result().save(path)


def test_a_file_holds_all_that_a_number_depends_on() -> None:
    said = result().as_dict()
    assert said["metrics"]["fvd"]["value"] == 95.234 and said["metrics"]["kvd"]["interval"] == (11.0, 14.0)
    assert said["protocol"] == PROTOCOLS["lvdm-fvd2048"].as_dict() and said["extractor"]["sha256"] == "ab" * 32
    assert said["fake"] | {"sampler": "ddim", "steps": 50, "eta": 1.0, "guidance": 0.0, "is_ema": True, "seed": 7} == said["fake"]
    assert (said["num_real"], said["num_fake"], said["real"]["fingerprint"]) == (2048, 2048, "f00d")
    assert said["packages"]["lvdm"] == __version__ and {"torch", "numpy", "scipy"} <= set(said["packages"])
    assert said["date"].endswith("+00:00") and said["warnings"] == []


@pytest.mark.parametrize(
    ("real", "fake", "name"),
    [(2048, 2048, "fvd"), (512, 512, "fvd_n512"), (512, 2048, "fvd_real512_fake2048"), (2048, 100, "fvd_real2048_fake100")],
)
def test_fewer_clips_rename_every_metric(real: int, fake: int, name: str) -> None:
    made = result(num_real=real, num_fake=fake)
    assert list(made.metrics) == [name, name.replace("fvd", "kvd", 1)]
    assert any("generated clips where lvdm-fvd2048 takes 2048" in warning for warning in made.warnings) == (name != "fvd")
    assert list(inception(num_fake=100).metrics) == ["is_n100"]


@pytest.mark.parametrize("change", [{"kind": "model"}, {"step": None}, {"seed": None}, {"kind": "videos"}])
def test_a_model_in_training_says_its_step_and_how_it_was_sampled(change: dict[str, object]) -> None:
    with pytest.raises(AssertionError, match="and only a"):
        replace(RUN, **change)


@pytest.mark.parametrize(("count", "is_singular"), [(401, False), (400, True), (30, True)])
def test_a_singular_covariance_is_told_exactly_when_it_is_one(count: int, is_singular: bool) -> None:
    told = any("covariance singular, strongly biased upwards" in said for said in result(num_real=count).warnings)
    assert told == is_singular
    rank = np.linalg.matrix_rank(np.cov(np.random.RandomState(0).randn(count, 400), rowvar=False))
    assert (rank < 400) == is_singular
    assert not any("singular" in said for said in inception(num_fake=30).warnings)


def test_random_features_and_custom_protocols_are_told_beside_every_number() -> None:
    made = result(extractor=RANDOM, protocol=get_protocol("lvdm-fvd2048", runs=1, extractor="random-i3d"))
    assert all(value["label"] == "not comparable" for value in made.as_dict()["metrics"].values())
    assert "i3d random seed 0 has random weights: every number is not comparable" in made.warnings[0]
    assert made.warnings[1] == (
        "custom protocol, which differs from lvdm-fvd2048 in extractor 'i3d' and 'random-i3d'; runs 10 and 1"
    )
    assert table_line(made, "ours").markdown.count("(not comparable)") == 2


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="came out as nan"):
        Value(float("nan"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda said: said["metrics"].update(fvd_n512=said["metrics"].pop("fvd")), "fvd_n512'] are no plain names"),
        (lambda said: said["metrics"]["kvd"].update(interval=[1.0]), "damaged result"),
        (lambda said: said.update(num_real=512), "calls its numbers fvd, kvd and not fvd_real512_fake2048"),
        (lambda said: said["protocol"].update(ddof=0), "calls itself lvdm-fvd2048 v1 but has ddof 1 and 0"),
        (lambda said: said["extractor"].pop("dim"), "extractor lacks dim"),
        (lambda said: said["metrics"]["fvd"].update(value="95"), "fvd: value is '95', expected float or int"),
        (lambda said: said["fake"].pop("steps"), "damaged result"),
        (lambda said: said.pop("num_fake"), "damaged result"),
        (lambda said: said.update(lvdm_result=9), "no result that lvdm wrote in format 1"),
    ],
)
def test_a_result_that_contradicts_itself_is_refused(tmp_path: Path, damage, words: str) -> None:
    said = json.loads(json.dumps(result().as_dict()))
    damage(said)
    (tmp_path / "fvd.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=words):
        read_result(tmp_path / "fvd.json")


def test_a_file_cut_short_is_told(tmp_path: Path) -> None:
    (tmp_path / "fvd.json").write_text(json.dumps(result().as_dict())[:100])
    with pytest.raises(UserError, match="fvd.json is no JSON"):
        read_result(tmp_path / "fvd.json")


def test_a_table_line_has_as_many_cells_as_columns_and_escapes_them() -> None:
    line = table_line(result(num_real=512, num_fake=512), "short_sky, 50% | a & b")
    assert line.columns == ("", "fvd_n512", "kvd_n512", "clips, real / generated", "protocol", "extractor")
    assert line.markdown == (
        r"| short_sky, 50% \| a & b | 95.23 ± 1.31 | 12.35 [11.00, 14.00] | 512 / 512 | lvdm-fvd2048 v1 "
        "| i3d eps 1e-05 stretch224 |"
    )
    assert line.latex.startswith(r"short\_sky, 50\% | a \& b & 95.23 $\pm$ 1.31 & 12.35 [11.00, 14.00] & ")
    assert line.latex.endswith(r"\\") and line.latex.replace(r"\&", "").count("&") == len(line.columns) - 1
    assert "| 343.6 |" in table_line(result(values={"fvd": Value(343.6)}), "").markdown
    assert "| 1142 |" in table_line(result(values={"fvd": Value(1141.9)}), "").markdown
    assert "| 0.001234 |" in table_line(result(values={"fvd": Value(0.00123449)}), "").markdown


def test_equal_conditions_give_the_difference_and_its_interval() -> None:
    b = result(values={"kvd": Value(15.0, interval=(14.0, 17.0), level=0.95)}, fake=FakeSource("array", "b.npy", "78" * 32))
    told = compare(result(), b)
    assert list(told) == ["kvd"] and told["kvd"].difference == pytest.approx(15.0 - 12.3456)
    assert compare(result(), result())["fvd"].difference == 0 and compare(result(), result())["fvd"].interval is None
    other_level = result(values={"kvd": Value(15.0, interval=(14.0, 17.0), level=0.9)})
    assert compare(result(), other_level)["kvd"].interval is None


def test_the_interval_of_a_difference_is_that_of_independent_normals() -> None:
    def told(mean: float, deviation: float) -> Result:
        return result(values={"fvd": Value(mean, interval=(mean - 1.96 * deviation, mean + 1.96 * deviation), level=0.95)})

    difference = compare(told(100, 3), told(110, 4))["fvd"]
    assert difference.interval == pytest.approx((10 - 1.96 * 5, 10 + 1.96 * 5)) and difference.level == 0.95


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (result(protocol=PROTOCOLS["tats"]), "name 'lvdm-fvd2048' and 'tats'.* resolution 256 and 128.* runs 10 and 1"),
        (result(protocol=get_protocol("lvdm-fvd2048", seed=3)), "seed 0 and 3"),
        (result(extractor=RANDOM), "extractor name: i3d eps 1e-05 stretch224 and i3d random seed 0"),
        (result(extractor=replace(I3D, sha256="ef" * 32)), "extractor sha256: abababababab and efefefefefef"),
        (result(num_fake=512), "num_fake: 2048 and 512"),
        (result(real=replace(REAL, fingerprint="beef")), "fingerprint of the real videos: f00d and beef"),
        (result(real=replace(REAL, manifest_sha256="90" * 32)), "pixels of the real clips"),
        (inception(), "protocol: name"),
        (result(values={}), "share no metric"),
    ],
)
def test_other_conditions_are_refused_and_told(other: Result, words: str) -> None:
    with pytest.raises(UserError, match=words):
        compare(result(), other)
