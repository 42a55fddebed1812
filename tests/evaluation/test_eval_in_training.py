"""`evaluation:` of a training config: the numbers of scripts/eval.py, by any number of processes, and training none the wiser."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_processes import train_in_two
from test_train_command import kill, rows, same
from test_train_refusals import refused, set_
from tiny_training import Config, autoencoder_config, checkpoint, data_of, diffusion_config, video_set, write_config

import lvdm
from lvdm.cli import train
from lvdm.cli.eval import main as evaluate
from lvdm.evaluation.results.result import Result, read_result
from lvdm.evaluation.sources.sampled import weights_sha256
from lvdm.evaluation.sources.videos import open_source
from lvdm.jobs import evaluate_in_training as in_training
from lvdm.jobs import trainer
from lvdm.training.checkpointing import SaveCheckpoints
from lvdm.types import UserError

CHANGES = {"runs": 1, "resolution": 16, "antialias": True}
ASKED = {"protocol": "lvdm-fvd2048", "set": CHANGES, "features": "random", "feature_width": 0.1, "fewer": 3}
LIKEWISE = ["--protocol", "lvdm-fvd2048", "--features", "random", "--feature-width", "0.1", "--allow-fewer", "3"]
LIKEWISE += ["--set", *(f"{key}={json.dumps(value)}" for key, value in CHANGES.items())]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVDM_CACHE", str(tmp_path / "cache"))


def config_of(made: Path, out: Path, **evaluation: Any) -> Config:
    config = diffusion_config(made / "latents", out, made / "autoencoder" / "model.safetensors")
    return {**config, "evaluation": {**ASKED, "real": str(made / "videos"), **evaluation}}


def results(run: Path) -> dict[int, Result]:
    return {int(path.stem.removeprefix("step=")): read_result(path) for path in (run / "evaluations").glob("step=*.json")}


def values(result: Result) -> dict[str, float]:
    return {name: value.value for name, value in result.metrics.items()}


def test_its_values_are_those_of_the_command_on_the_model_file_of_that_step(made: Path, tmp_path: Path) -> None:
    """Twenty frames are more than a window has: long videos, of the averaged weights that the model file has."""
    config = config_of(made, tmp_path, seed=5, set={**CHANGES, "frames": 20})
    assert train.main([write_config(tmp_path / "joint.yaml", config), "trainer.max_steps=4"]) == 0
    run, out = tmp_path / "joint", tmp_path / "eval.json"
    sources = ["--real", str(made / "videos"), "--fake", str(run / "model.safetensors"), "--seed", "5", "--no-cache"]
    assert evaluate([*sources, *LIKEWISE, "frames=20", "--out", str(out)]) == 0
    ours, theirs = results(run), read_result(out)
    assert sorted(ours) == [2, 4] and values(ours[2]) != values(ours[4])
    assert list(ours[4].metrics) == ["fvd_n3", "kvd_n3"]
    assert values(ours[4]) == pytest.approx(values(theirs), rel=1e-6)
    assert (ours[4].protocol, ours[4].extractor, ours[4].real) == (theirs.protocol, theirs.extractor, theirs.real)
    told = ours[4].fake
    model = lvdm.load(run / "model.safetensors")
    assert (told.kind, told.name, told.step, told.is_ema, told.seed) == ("run", "joint", 4, True, 5)
    assert told.sha256 == weights_sha256(model.codec, model.denoiser.state_dict()) != ours[2].fake.sha256
    assert (told.sampler, told.steps, told.eta) == (theirs.fake.sampler, theirs.fake.steps, theirs.fake.eta)
    manifest = (run / "evaluations" / "real.manifest.jsonl").read_text()
    assert manifest == out.with_suffix(".manifest.jsonl").read_text()
    logged = {row["step"]: row for row in rows(run)}
    for step, result in ours.items():
        assert {name: float(logged[str(step - 1)][f"eval/{name}"]) for name in values(result)} == pytest.approx(values(result))


def test_training_is_none_the_wiser(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All random states after every step, and all that a checkpoint holds of the weights, to the bit."""
    states: list[tuple[Any, ...]] = []
    done = SaveCheckpoints.on_train_batch_end

    def look(self, trainer, *arguments):
        states.append((torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()))
        done(self, trainer, *arguments)

    monkeypatch.setattr(SaveCheckpoints, "on_train_batch_end", look)
    dropout = "model.params.denoiser.params.dropout=0.2"
    config = [write_config(tmp_path / "joint.yaml", config_of(made, tmp_path)), "trainer.max_steps=5", dropout]
    assert train.main([*config, "--name", "with"]) == 0
    assert train.main([*config, "--name", "without", "evaluation=null"]) == 0
    assert len(states) == 10 and all(same(states[step], states[step + 5]) for step in range(5))
    ours, theirs = (checkpoint(tmp_path / run) for run in ("with", "without"))
    for part in ("state_dict", "current_model_state", "optimizer_states", "loops"):
        assert same(ours[part], theirs[part]), part
    assert not (tmp_path / "without" / "evaluations").exists()


@pytest.mark.parametrize(
    ("step", "where", "pace"),
    [
        (4, "start", []),  # behind the validation of step 4
        (4, "end", []),  # before it, and at the end of an epoch
        (5, "start", ["trainer.check_val_every_n_epoch=1", "trainer.val_check_interval=0.5"]),  # in epochs of four batches
    ],
)
def test_a_killed_run_evaluates_as_one_that_was_not(step, where, pace, made, tmp_path, monkeypatch) -> None:
    """At every second validation, which come at steps 2, 4, 6, and at the last one."""
    config = [write_config(tmp_path / "joint.yaml", config_of(made, tmp_path, every=2)), *pace]
    config += ["trainer.max_steps=6", "checkpoints.every_steps=1"]
    assert train.main([*config, "--name", "whole"]) == 0
    with monkeypatch.context() as patch:
        kill(step, where, patch)
        assert train.main([*config, "--name", "killed"]) == 130
    assert train.main([*config, "--name", "killed"]) == 0
    whole, killed = (results(tmp_path / run) for run in ("whole", "killed"))
    assert sorted(whole) == [4, 6]
    assert {at: values(one) for at, one in whole.items()} == {at: values(one) for at, one in killed.items()}
    assert same(*(checkpoint(tmp_path / run)["current_model_state"] for run in ("whole", "killed")))
    logged = [
        {row["step"]: row["eval/fvd_n3"] for row in rows(tmp_path / run) if row["eval/fvd_n3"]} for run in ("whole", "killed")
    ]
    assert logged[0].keys() == {"3", "5"} and logged[0] == logged[1]


def test_two_processes_with_the_denoiser_in_parts_give_the_values_of_one(made: Path, tmp_path: Path) -> None:
    """Of weights that stay as they are. Three clips are two for each process, the fourth left out: as many calls for both."""
    config = config_of(made, tmp_path, batch_size=1)
    config["model"]["params"]["optimizer"] = {"target": "lvdm.training.AdamW", "params": {"lr": 0.0}}
    written = write_config(tmp_path / "config.yaml", config)
    assert train.main([written, "--name", "one", "data.params.batch_size=4"]) == 0
    train_in_two(written, "--name", "two", "trainer.strategy=fsdp")
    one, two = (results(tmp_path / run)[2] for run in ("one", "two"))
    assert (one.machine["processes"], two.machine["processes"]) == (1, 2)
    assert values(two) == pytest.approx(values(one), rel=1e-6)
    assert one.real == two.real and one.fake.sha256 == two.fake.sha256
    assert float(rows(tmp_path / "two")[1]["eval/fvd_n3"]) == pytest.approx(values(one)["fvd_n3"])


def test_without_it_nothing_of_it_is_made(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("this costs something")

    for name in ("make_extractor", "EvalSettings", "videos_of", "measure_real", "EvaluateInTraining"):
        monkeypatch.setattr(in_training if name != "EvaluateInTraining" else trainer, name, never)
    config = {key: value for key, value in config_of(made, tmp_path).items() if key != "evaluation"}
    assert train.main([write_config(tmp_path / "joint.yaml", config)]) == 0
    assert not (tmp_path / "joint" / "evaluations").exists() and not (tmp_path / "cache").exists()
    assert yaml.safe_load((tmp_path / "joint" / "config.yaml").read_text())["evaluation"] is None


def test_real_videos_left_out_are_those_of_validation_which_are_the_test_part(made: Path, tmp_path: Path) -> None:
    """As the command takes them from the run's own config; the weights are the trained ones where none are averaged."""
    config = config_of(made, tmp_path, real=None)
    videos = video_set(made / "videos", num_frames=28)
    config |= {"data": data_of(videos, {**videos, "params": {**videos["params"], "random_clip": False}}), "average": 0}
    assert train.main([write_config(tmp_path / "joint.yaml", config)]) == 0
    found = results(tmp_path / "joint")[2]
    assert found.protocol.name == "custom (from lvdm-fvd2048)" and not found.fake.is_ema
    theirs = open_source(tmp_path / "joint" / "config.yaml", split="test")
    assert (found.real.split, found.real.fingerprint) == ("test", theirs.fingerprint())


def test_what_goes_wrong_in_an_evaluation_is_told_and_training_goes_on(made, tmp_path, monkeypatch, caplog) -> None:
    def fails(*_: Any) -> None:
        raise UserError("a score came out as nan")

    monkeypatch.setattr(in_training, "measure_fake", fails)
    assert train.main([write_config(tmp_path / "joint.yaml", config_of(made, tmp_path)), "trainer.max_steps=3"]) == 0
    assert "cannot evaluate step 2 (a score came out as nan): training continues" in caplog.text
    assert checkpoint(tmp_path / "joint")["global_step"] == 3


# What is refused before the run leaves its first file --------------------------------------------------------------------


def ask(**changes: Any) -> Callable[[Config, Path], None]:
    return lambda config, at: config["evaluation"].update(changes)


def without_mask(config: Config, at: Path) -> None:
    plain = {"in_channels": 2, "out_channels": 2, "model_channels": 32, "channel_mult": [1], "attention_resolutions": []}
    config["model"]["params"]["denoiser"]["params"] = plain
    config["model"]["params"]["tasks"] = {"short": {"target": "lvdm.training.Task"}}
    config["evaluation"]["set"] = {**CHANGES, "frames": 20}


REFUSED: dict[str, tuple[str, Callable[[Config, Path], Any]]] = {
    "unknown protocol": ("evaluation: there is no protocol 'lvdm-fvd20'; did you mean lvdm-fvd2048?", ask(protocol="lvdm-fvd20")),
    "unknown field": ("evaluation: frame is nothing that can be changed in a protocol", ask(set={"frame": 8})),
    "unknown key": ("evaluation.protocl is not a setting; did you mean evaluation.protocol?", ask(protocl="tats")),
    "missing weights": ("i3d_pretrained_400.pt is not there and LVDM_OFFLINE=1 forbids", ask(features=None, feature_width=1.0)),
    "unknown extractor": ("evaluation: fvd cannot use the extractor 'i3'; did", ask(features="i3", feature_width=1.0)),
    "width of given weights": ("evaluation: ", ask(features="i3d-cover")),
    "too few real clips": ("evaluation: 2048 real clips were requested, but 4 videos hold 4", ask(fewer=None)),
    "short real videos": ("but 4 videos hold 0", ask(set={**CHANGES, "frames": 41})),
    "frames of the extractor": ("takes clips of 9 or more frames, not 4", ask(set={**CHANGES, "frames": 4})),
    "clips the model cannot make": ("trained without given frames (its network takes no mask), so it", without_mask),
    "sampling steps": ("evaluation: ", ask(steps=0)),
    "fewer than two": ("evaluation: fewer is 1, expected 2 or more", ask(fewer=1)),
    "every": ("evaluation: every is 0, expected 1 or more", ask(every=0)),
    "no videos": ("evaluation: there is no nowhere; give a folder of videos", ask(real="nowhere")),
    "cached latents": ("lvdm-fvd2048) compares with real videos, and data.params.val is LatentClips; name", ask(real=None)),
    "train part of val": ("split train has no effect on the videos of", ask(real=None, set={**CHANGES, "split": "train"})),
    "real where none are": ("tgan2-is) looks at no real videos; leave real out", ask(protocol="tgan2-is", set={"runs": 1})),
    "no validation": ("evaluation: it is a part of validation, and there is none", set_("data.params.val", None)),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_evaluated_is_refused_before_the_run_leaves_a_file(case, made, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["pytest"])
    monkeypatch.setenv("LVDM_OFFLINE", "1")
    monkeypatch.setenv("LVDM_WEIGHTS", str(tmp_path / "weights"))
    words, change = REFUSED[case]
    assert words in refused(copy.deepcopy(config_of(made, tmp_path / "runs")), change, tmp_path, capsys)


def test_an_autoencoder_is_not_evaluated(made, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["pytest"])
    config = {**autoencoder_config(made / "videos", tmp_path / "runs"), "evaluation": ASKED}
    assert "evaluation: an autoencoder makes no videos" in refused(copy.deepcopy(config), ask(), tmp_path, capsys)


def test_a_dry_run_checks_what_needs_no_look_at_the_disk(made, tmp_path, capsys) -> None:
    config = config_of(made, tmp_path / "runs", real="nowhere", set={**CHANGES, "frames": 20})
    written = write_config(tmp_path / "joint.yaml", config)
    assert train.main([written, "--dry-run"]) == 0
    assert train.main([written, "--dry-run", "evaluation.protocol=lvdm-fvd"]) == 2
    assert "evaluation: there is no protocol 'lvdm-fvd'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_extractor_that_has_no_to_stays_where_it_is() -> None:
    """The protocol `Extractor` does not ask for one."""
    extractor = lambda clips: clips[:, 0, 0, 0].float()  # noqa: E731
    planned = in_training.Planned(None, None, extractor, None, None, every=1)
    callback = in_training.EvaluateInTraining(planned, None, {})
    callback.on_train_start(None, SimpleNamespace(device=torch.device("cpu")))
    assert callback.planned.extractor is extractor
