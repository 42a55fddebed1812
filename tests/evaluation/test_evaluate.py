"""Measuring from Python gives what the commands give, from whatever the videos come; and errors name no flag."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_sample_commands import write_model
from tiny_codecs import write_codec
from tiny_evaluation import WIDTH, manifest_of, result_of, saved, toys
from tiny_training import AUTOENCODER

import lvdm
from lvdm.checkpoints.model_file import read_model, save_model
from lvdm.cli.eval import main
from lvdm.evaluation.results.result import Result, read_result
from lvdm.evaluation.sources.model import Sampling
from lvdm.evaluation.sources.sampled import weights_sha256
from lvdm.jobs.evaluate import EvalSettings, evaluate, features, fvd
from lvdm.jobs.evaluate_long import evaluate_long
from lvdm.jobs.evaluate_reconstruction import evaluate_reconstruction
from lvdm.jobs.evaluate_text import evaluate_text
from lvdm.models.codec import Codec
from lvdm.models.features import make_extractor
from lvdm.sampling.options import LongOptions
from lvdm.types import DenoiserInputs, UserError

PACKAGE = Path(__file__).resolve().parents[2] / "lvdm"
CHANGES = {"frames": 9, "runs": 1, "resolution": None, "resize": "none", "antialias": True}
LIKEWISE = ["--set", *(f"{key}={json.dumps(value)}" for key, value in CHANGES.items()), "--features", "random"]
LIKEWISE += ["--feature-width", str(WIDTH), "--device", "cpu", "--no-cache"]
SETTINGS = EvalSettings(CHANGES, feature_width=WIDTH, device="cpu", is_cached=False)
SOURCES = ("real", "fake", "date")  # of a result: an array in memory has another name and hash than its file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("runs") / "joint" / "model.safetensors")


def content(result: Result | Any, *left_out: str) -> dict[str, Any]:
    whole = json.loads(json.dumps(result if isinstance(result, dict) else result.as_dict()))
    return {key: value for key, value in whole.items() if key not in ("date", *left_out)}


def test_arrays_and_tensors_score_as_their_files_do_by_the_command(tmp_path: Path) -> None:
    """Floats come back to the levels that they were made of."""
    real, fake = toys(4), toys(5, split="val")
    files = saved(tmp_path / "real.npy", real), saved(tmp_path / "fake.npy", fake)
    command = ["--real", files[0], "--fake", files[1], "--protocol", "lvdm-fvd2048", "--allow-fewer", "3", *LIKEWISE]
    expected = result_of(tmp_path / "command.json", *command)
    as_floats = torch.from_numpy(fake).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    for a, b in ((real, fake), (torch.from_numpy(real), as_floats), (real[::-1][::-1], as_floats.numpy())):
        result = evaluate(a, b, num=3, features="random", settings=SETTINGS)
        assert content(result, *SOURCES) == content(expected, *SOURCES) and not result.is_comparable
        assert (result.fake.kind, result.fake.name) == ("array", "array") and len(result.fake.sha256) == 64
    result = evaluate(*files, num=3, features="random", settings=SETTINGS)
    result.save(tmp_path / "python" / "it.json")
    assert content(json.loads((tmp_path / "python" / "it.json").read_text())) == content(expected)
    assert manifest_of(tmp_path / "python" / "it.json") == manifest_of(tmp_path / "command.json") == result.manifest
    assert read_result(tmp_path / "python" / "it.json") == result


def test_fvd_and_features_of_arrays_are_those_of_the_plain_functions() -> None:
    a, b = toys(4, frames=9), toys(6, frames=9, split="val")
    network = make_extractor("random-i3d", width=WIDTH)
    x, y = (torch.cat([network(torch.from_numpy(clip)[None]) for clip in clips]).double().numpy() for clips in (a, b))
    narrow = EvalSettings(feature_width=WIDTH, device="cpu")
    np.testing.assert_allclose(features(a, "random-i3d", settings=narrow), x, rtol=1e-5)
    mean, cov = x.mean(0) - y.mean(0), np.cov(x.T) + np.cov(y.T)
    root = np.sqrt(np.linalg.eigvals(np.cov(x.T) @ np.cov(y.T)).real.clip(0)).sum()
    assert fvd(a, b, features="random", settings=SETTINGS) == pytest.approx(mean @ mean + np.trace(cov) - 2 * root, rel=1e-4)


def test_a_model_scores_alike_as_a_file_as_a_loaded_model_and_by_the_command(model: Path, tmp_path: Path) -> None:
    real = toys(3)
    how = Sampling(steps=2, seed=4)
    arguments = ["--real", saved(tmp_path / "real.npy", real), "--fake", str(model), "--protocol", "lvdm-fvd2048"]
    expected = result_of(tmp_path / "it.json", *arguments, "--allow-fewer", "3", "--steps", "2", "--seed", "4", *LIKEWISE)
    loaded = lvdm.load(model)
    for fake in (model, str(model), loaded):
        result = evaluate(real, fake, num=3, features="random", sampling=how, settings=SETTINGS)
        assert content(result, "real") == content(expected, "real")
    built = replace(loaded, loaded=None, name="mine")
    in_memory = evaluate(real, built, num=3, features="random", sampling=how, settings=SETTINGS)
    assert in_memory.values == result.values and (in_memory.fake.name, in_memory.fake.is_ema) == ("mine", None)
    assert in_memory.fake.sha256 == weights_sha256(loaded.codec, loaded.denoiser.state_dict())
    long_clips = replace(SETTINGS, changes={**CHANGES, "frames": 40})
    both = evaluate(toys(2, frames=40), loaded, num=2, features="random", infill=model, sampling=how, settings=long_clips)
    assert both.fake.name == "joint/model.safetensors + joint/model.safetensors", "the files, and not what messages call them"


def test_long_videos_and_reconstructions_measure_alike_by_their_commands(model: Path, tmp_path: Path) -> None:
    real = saved(tmp_path / "real.npy", toys(3))
    files = ["--fake", str(model), "--real", real, "--out", str(tmp_path / "long")]
    how = ["--infill", str(model), "--num", "2", "--frames", "40", "--steps", "2", "--seed", "3", "--allow-fewer"]
    assert main(["long", *files, *how, *LIKEWISE]) == 0
    options = {"features": "random", "settings": SETTINGS, "num": 2, "fewer": 0, "frames": 40, "seed": 3}
    found = evaluate_long(lvdm.load(model), real, infill=model, options=LongOptions(steps=2), **options)
    files = found.save(tmp_path / "python")
    expected = json.loads((tmp_path / "long" / "result.json").read_text())
    assert content(json.loads(files[0].read_text())) == content(expected) and expected["long"]["over_time"]
    assert (tmp_path / "python" / "over_time.csv").read_text() == (tmp_path / "long" / "over_time.csv").read_text()

    codec = write_codec(tmp_path / "ae.safetensors", node=AUTOENCODER)
    sides = {**CHANGES, "frames": 12}
    options = ["--lpips", "none", "--show", "0", "--allow-fewer", *LIKEWISE, "--set", "frames=12"]
    expected = result_of(tmp_path / "r.json", "reconstruction", "--model", str(codec), "--real", real, *options)
    result = evaluate_reconstruction(
        codec, real, allow_fewer=True, features="random", lpips=[], settings=replace(SETTINGS, changes=sides)
    )
    assert content(result) == content(expected) and "psnr_clip_n3" in result.metrics


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a: evaluate(a, a.astype(np.float64)), "videos are float64 .* expected uint8"),
        (lambda a: evaluate(a, 2 * torch.rand(2, 3, 9, 16, 16)), "floats from .* expected -1 to 1"),
        (lambda a: evaluate(a, torch.full((2, 3, 9, 16, 16), torch.nan)), "floats from nan"),
        (lambda a: evaluate(None, a), "lvdm-fvd2048 compares with real videos; give real ones"),
        (lambda a: evaluate(a, a, sampling=Sampling(steps=2)), "sampling has no effect on videos that exist"),
        (lambda a: evaluate(a, a, protocol="tgan2-is"), "looks at no real videos; leave real and replay out"),
        (lambda a: evaluate(a, a, metrics=["fvdd"]), "measures fvd, kvd, not fvdd"),
        (lambda a: evaluate(a, a, settings=EvalSettings({"metrics": ["fvdd"]})), "no metric 'fvdd'; did you mean fvd?"),
        (lambda a: evaluate(a, a, num=1), "1 clips have no score"),
        (lambda a: evaluate(a, a, num=0), "0 clips have no score; give 2 or more"),
        (
            lambda a: evaluate(a, a, num=9, features="random", settings=SETTINGS),
            "9 real clips were requested, but 2 videos hold 2",
        ),
        (
            lambda a: evaluate(a, a, num=4096, features="random", settings=SETTINGS),
            "num is 4096, and .*lvdm-fvd2048.* takes 2048 clips",
        ),
        (lambda a: fvd(a, torch.rand(2, 3, 9, 16, 16)), r"as in \[0, 1\]; expected \[-1, 1\]: give 2 \* videos - 1"),
        (lambda a: evaluate(a, a, settings=EvalSettings({"split": "test"}, split="train")), "changes have the split test"),
        (lambda a: evaluate(a, a, settings=EvalSettings(split="val")), "split is 'val', expected train, test, train"),
        (lambda a: evaluate(a, a, num="x"), "num is 'x', expected null or an integer"),
        (lambda a: evaluate(a, a, num=2.5), "num is 2.5, expected null or an integer"),
        (lambda a: evaluate(a, a, protocol=3), "protocol is 3, expected a name or an EvalProtocol"),
        (lambda a: evaluate(a, a, features=3), "features is 3, expected null or text"),
        (lambda a: evaluate(a, a, metrics=[]), r"metrics is \[\], expected null or a list of 1"),
        (lambda a: evaluate(a, a, metrics="fvd"), "metrics is 'fvd', expected null or a list"),
        (lambda a: evaluate_text(a, ["a", "b"], batch_size="x"), "batch_size is 'x', expected an integer"),
        (lambda a: features(a, 3), "extractor is 3, expected text"),
        (lambda a: evaluate_long(a, num="x"), "num is 'x', expected null or an integer"),
        (lambda a: EvalSettings(feature_width="x"), "feature_width is 'x', expected a finite number"),
        (lambda a: EvalSettings(feature_seed="x"), "feature_seed is 'x', expected an integer from 0"),
        (lambda a: EvalSettings(feature_seed=2**70), "feature_seed is 1180591620717411303424, expected an integer from 0"),
        (lambda a: EvalSettings(bootstrap=2.5), "bootstrap is 2.5, expected an integer"),
        (lambda a: EvalSettings(batch_size=0), "batch_size is 0, expected an integer of 1 or more"),
        (lambda a: EvalSettings(workers="x"), "workers is 'x', expected an integer of 0 or more"),
        (lambda a: EvalSettings(changes=3), "changes is 3, expected a mapping"),
        (lambda a: EvalSettings(allow="mine"), "allow is 'mine', expected a list"),
        (lambda a: EvalSettings(device=3), "device is 3, expected text or a torch.device"),
        (lambda a: evaluate_long(a, frames=99), "frames is 99, but 2 of 2 videos have fewer"),
        (lambda a: evaluate_long(a, options=LongOptions()), "sampling has no effect"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(call, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call(toys(2, frames=9))


def test_a_count_may_be_an_integer_of_numpy(tmp_path: Path) -> None:
    result = evaluate(toys(3, frames=9), toys(3, frames=9), num=np.int64(2), features="random", settings=SETTINGS)
    result.save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["num_real"] == 2


class Plain:
    """A denoiser that is no nn.Module."""

    inputs = DenoiserInputs()

    def __call__(self, x: torch.Tensor, t: torch.Tensor, cond: object = None) -> torch.Tensor:
        return x


def test_a_model_whose_weights_are_unknown_is_one_sentence(model: Path) -> None:
    """lvdm.sample takes it, but a result says of which weights it is."""
    own = replace(lvdm.load(model), denoiser=Plain())
    assert lvdm.sample(own, 1, steps=1).videos.shape[0] == 1
    with pytest.raises(UserError, match="has a Plain, and the weights of a Module identify a model in results; derive it from"):
        evaluate(toys(2), own, num=2, features="random", settings=SETTINGS)


class Changed(Codec):
    """A codec whose videos are changed after they are decoded."""

    made: Any

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return self.made(super().decode(latent))


@pytest.mark.parametrize(
    ("made", "got"), [(lambda video: video[..., ::2], r"\(1, 3, 12, 16, 8\)"), (lambda video: None, "NoneType")]
)
def test_a_codec_that_decodes_to_another_shape_is_one_sentence(tmp_path: Path, made, got: str) -> None:
    whole = lvdm.load(write_codec(tmp_path / "ae.safetensors", node=AUTOENCODER))
    codec = Changed(whole.codec.autoencoder, scale=whole.codec.scale, shift=whole.codec.shift)
    codec.made = made
    settings = replace(SETTINGS, changes={**CHANGES, "frames": 12})
    how = {"allow_fewer": True, "features": "random", "lpips": [], "settings": settings}
    with pytest.raises(UserError, match=rf"makes {got} of a video \(1, 3, 12, 16, 16\); its codec must decode to the same shape"):
        evaluate_reconstruction(replace(whole, codec=codec), toys(3), "lvdm-fvd2048", **how)


def test_what_a_result_says_of_averaged_weights_is_what_the_model_file_says(model: Path, tmp_path: Path) -> None:
    info, tensors = read_model(model)
    save_model(tmp_path / "raw" / "model.safetensors", tensors, replace(info, config={"average": 0}))
    result = evaluate(toys(2), tmp_path / "raw" / "model.safetensors", num=2, features="random", settings=SETTINGS)
    assert result.fake.is_ema is False and result.fake.name == "raw/model.safetensors"


def test_the_library_names_no_flag() -> None:
    """Commands do: what is called `num` in Python may be --allow-fewer there."""
    files = [*(PACKAGE / "evaluation").rglob("*.py"), *(PACKAGE / "models/features").glob("*.py")]
    files += (PACKAGE / "jobs").glob("evaluate*.py")
    for path in files:
        words = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert not [word for word in words if isinstance(word, str) and re.search(r"(?<!-)--[a-z]", word)], path
