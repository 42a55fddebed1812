"""lvdm.sample gives what scripts/sample_short.py writes, as an array or as files, and names the argument that is wrong."""

from pathlib import Path

import numpy as np
import pytest
from test_sample_commands import write_model

import lvdm
from lvdm.cli import sample_short
from lvdm.types import UserError


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("runs") / "joint" / "model.safetensors")


def test_python_and_the_command_sample_the_same_bytes(joint: Path, tmp_path: Path) -> None:
    options = ["--num", "3", "--batch-size", "2", "--seed", "4", "--steps", "2", "--device", "cpu", "--format", "mp4,npz"]
    assert sample_short.main([str(joint), *options, "--out", str(tmp_path / "command")]) == 0
    how = {"num": 3, "seed": 4, "steps": 2, "batch_size": 2, "device": "cpu"}
    samples = lvdm.sample(joint, **how)
    assert (samples.sampler, samples.steps, samples.frames, samples.paths) == ("dpmpp", 2, 20, [])
    written = lvdm.sample(lvdm.load(joint), **how, out=lvdm.Output(tmp_path / "python", ("mp4", "npz"), fps=10))
    assert len(written.paths) == 6 and not len(written.videos)
    for path in written.paths:
        other = tmp_path / "command" / path.name
        if path.suffix == ".mp4":
            assert path.read_bytes() == other.read_bytes()
        else:
            number = int(path.stem.rpartition("-")[2])
            assert np.array_equal(np.load(path)["video"], np.load(other)["video"])
            assert np.array_equal(np.load(path)["video"], samples.videos[number])


def test_the_argument_that_is_wrong_is_named(joint: Path) -> None:
    for options, words in (
        ({"num": 2.5}, "num is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"prompts": ["a cat"]}, "no text encoder"),
    ):
        with pytest.raises(UserError, match=words):
            lvdm.sample(joint, **{"num": 1, "steps": 2, **options})
    with pytest.raises(UserError, match="stepz is no option of sample_long; did you mean steps"):
        lvdm.sample_long(joint, stepz=3)
