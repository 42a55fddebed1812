"""Sampling outside what a model was trained to do is refused or warned of, and short clips have the frame rate of their task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_long_video import WINDOW, tiny_model
from tiny_models import describe, tensors_of, write_text
from torch import Tensor

from lvdm.diffusion.masks import BothEnds, EveryKth, FirstFrames, Mixture, NoMask
from lvdm.jobs.load import load
from lvdm.jobs.trained import trained_task
from lvdm.sampling.long_pipeline import LongOptions, prepare_long_video
from lvdm.sampling.pipeline import VideoModel
from lvdm.sampling.trained import Trained, TrainedTask, warn_once
from lvdm.training.tasks import Task
from lvdm.types import Condition, UserError

# The tasks of a joint model: keys 4 apart, the first 2 given; gaps between both ends.
JOINT = Trained(
    {
        "short": TrainedTask(4, [[]]),
        "predict": TrainedTask(4, [[0, 1]]),
        "infill": TrainedTask(1, [[0, 4]]),
    },
    fps=(8.0, 8.0),
)


@pytest.fixture(autouse=True)
def _warn_anew() -> Iterator[None]:
    warn_once.cache_clear()
    yield


def joint(trained: Trained | None = JOINT) -> VideoModel:
    return replace(tiny_model(), trained=trained)


def prepare(model: VideoModel, *, infill: bool = True, frames: int = 90, **options: Any) -> None:
    prepare_long_video(model, model if infill else None, LongOptions(frames=frames, **options))


# The record --------------------------------------------------------------------------------------------------------------


class AnyHalf:
    """A mask of a user: each frame is given or not, by a coin."""

    def __call__(self, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        return (torch.rand(batch, frames, generator=generator) < 0.5).float()[:, None, :, None, None]


@pytest.mark.parametrize(
    ("mask", "given"),
    [
        (NoMask(), [()]),
        (FirstFrames([3, 1]), [(0,), (0, 1, 2)]),
        (BothEnds(), [(0, 8)]),
        (EveryKth(2), [(0, 2, 4, 6, 8)]),
        (Mixture([BothEnds(), NoMask()], [0.99, 0.01]), [(), (0, 8)]),
        (AnyHalf(), None),  # 512 patterns: too many to list
    ],
)
def test_the_patterns_of_a_task_are_those_of_its_mask(mask: Any, given: list[tuple[int, ...]] | None) -> None:
    assert trained_task(Task(mask, stride=3), 9) == TrainedTask(3, given)


def test_a_record_survives_json() -> None:
    told = replace(JOINT, labels=[0, 2], label_dropout=0.1, max_level=250)
    again = Trained.read(json.loads(json.dumps(asdict(told))))
    assert again.strides == [1, 4] and again.patterns(4) == {(), (0, 1)} and again.patterns() == {(), (0, 1), (0, 4)}
    assert (list(again.labels), again.label_dropout, again.max_level, list(again.fps)) == ([0, 2], 0.1, 250, [8, 8])


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"tasks": {"short": {"stride": 0, "given": [[]]}}}, "stride is 0"),
        ({"tasks": {"short": []}}, "short is .*, expected a mapping"),
        ({"tasks": []}, "tasks is \\[\\], expected a mapping"),
        ({"tasks": {"short": {"stride": 1, "given": [["a"]]}}}, "given is"),
        ({"labels": [-1]}, "labels is"),
        ({"label_dropout": 2}, "label_dropout is 2"),
    ],
)
def test_a_wrong_record_is_refused(stored: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Trained.read(stored)


# Refusals and warnings ---------------------------------------------------------------------------------------------------


def test_what_was_trained_is_sampled_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    prepare(joint())
    prepare(joint(trained=None), infill=False)  # files of earlier versions
    assert not caplog.records


def test_a_joint_model_without_infill_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        prepare(joint(), infill=False)
    words = "the model was trained on latents 4 apart, not 1: expect poor videos"
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [words]


@pytest.mark.parametrize(
    ("without", "options", "words"),
    [
        ("", {"key_stride": 2}, "never trained on latents 2 apart; give a key_stride of 4$"),
        ("short predict", {"key_stride": 2}, "never trained on latents 2 apart; leave the infill model out"),
        ("", {"overlap": 3}, "trained to continue 2 given latents, not 3"),
        ("predict", {}, "never trained to continue given latents"),
        ("infill", {}, "never trained to fill gaps"),
    ],
)
def test_what_cannot_work_is_refused(without: str, options: dict[str, Any], words: str) -> None:
    tasks = {name: task for name, task in JOINT.tasks.items() if name not in without.split()}
    with pytest.raises(UserError, match=words):
        prepare(joint(replace(JOINT, tasks=tasks)), **options)


@pytest.mark.parametrize(("record", "words"), [
    ({"fps": [9, 1]}, "fps is .9, 1., expected the lowest and then the highest"),
    ({"labels": [0, 7]}, "labels has 7, and the network knows 5 classes"),
])  # fmt: skip
def test_a_damaged_record_is_refused_when_it_is_read(record: dict[str, Any], words: str, tmp_path: Path) -> None:
    described = describe("diffusion")
    described["denoiser"]["params"]["num_labels"] = 5
    tensors = tensors_of(described)
    good = {"tasks": {}, "fps": [1, 9], "labels": [0, 4]}
    assert load(write_text(tmp_path / "a", json.dumps({**described, "trained": good}), tensors)).trained == Trained(**good)
    with pytest.raises(UserError, match=f"describes its training wrongly: {words}"):
        load(write_text(tmp_path / "b", json.dumps({**described, "trained": {**good, **record}}), tensors))


def test_levels_and_rates_outside_training_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    prepare(joint(replace(JOINT, max_level=100, fps=(20.0, 30.0))))  # its levels are 100, its fps 8
    assert "at levels below 100, and this is 100" in caplog.text
    assert "trained on videos of 20 to 30 frames per second, and it is sampled at 8; sampling.fps of the config" in caplog.text


# The frame rate ----------------------------------------------------------------------------------------------------------


ANY = Trained({"short": TrainedTask(2, None), "infill": JOINT.tasks["infill"]})


@pytest.mark.parametrize(("trained", "fps"), [(JOINT, 2.0), (None, 8.0), (ANY, 4.0)])
def test_a_short_clip_has_the_rate_of_the_task_that_samples_it(trained: Trained | None, fps: float) -> None:
    """In training a clip of latents k apart has fps / k."""
    model = tiny_model()

    class Spy:
        inputs = model.denoiser.inputs
        seen: set[float] = set()

        def __call__(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
            assert x.shape[2] == WINDOW and cond is not None and cond.fps is not None
            Spy.seen.update(cond.fps.tolist())
            return model.denoiser(x, t, cond)

    replace(model, denoiser=Spy(), trained=trained).sample_latents(2, steps=1)
    assert Spy.seen == {fps}


def test_short_clips_of_an_infill_model_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    joint(Trained({"infill": JOINT.tasks["infill"]})).sample_latents(1, steps=1)
    assert "never trained without given latents, so its short clips will be poor" in caplog.text
