"""What a denoiser takes is data: `inputs`. A user's own nn.Module trains and samples; what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_denoisers import Classes, Plain, Silent
from tiny_training import diffusion_config, make_latents, write_config, write_videos
from torch import nn

import lvdm
from lvdm.cli import train
from lvdm.diffusion.masks import FirstFrames
from lvdm.diffusion.objectives import VObjective
from lvdm.diffusion.schedules import Cosine
from lvdm.models.autoencoders import PatchVAE3D
from lvdm.models.codec import Codec
from lvdm.sampling.pipeline import SamplingSettings, VideoModel
from lvdm.training import GivenFrames, LatentDiffusion
from lvdm.training.seeding import generator_for
from lvdm.training.tasks import Task
from lvdm.types import Condition, DenoiserInputs, UserError, check_inputs

ALLOW = ["--allow-module", "tiny_denoisers"]
PREDICT = {"predict": Task(FirstFrames([1]))}


def codec() -> Codec:
    return Codec(PatchVAE3D((8,), ((1, 1, 1),), latent_channels=2))


def stage(denoiser: nn.Module, **options: object) -> LatentDiffusion:
    options = {"tasks": PREDICT, "num_latents": 3, **options}
    return LatentDiffusion(denoiser=denoiser, codec=nn.Identity(), schedule=Cosine(), objective=VObjective(), **options)


def test_a_network_that_takes_no_mask_is_refused_for_tasks_that_give_frames() -> None:
    with pytest.raises(UserError, match="the task predict gives frames, but the denoiser takes no mask"):
        stage(Plain())
    stage(Plain(), tasks={"short": Task()})


def test_a_table_of_classes_is_none_of_noise_levels_whatever_its_name() -> None:
    stage(Classes(), given=GivenFrames(max_level=250))
    model = VideoModel(codec(), Classes(), Cosine(), VObjective(), SamplingSettings((2, 3, 4, 4), steps=2))
    assert model.sample_latents(2, label=[2, 0]).shape == (2, 2, 3, 4, 4)
    with pytest.raises(UserError, match="classes 0 to 2"):
        model.sample_latents(2, label=3)


def test_a_network_that_does_not_say_what_it_takes_is_told_what_to_write() -> None:
    with pytest.raises(
        UserError, match=r"Silent does not say what it takes; give it `inputs = lvdm.types.DenoiserInputs\(\)` if"
    ):
        stage(Silent())
    wrong = Silent()
    wrong.inputs = {"mask": True}
    with pytest.raises(UserError, match="does not say what it takes"):
        stage(wrong)


def test_a_network_gets_what_it_takes_and_nothing_else() -> None:
    batch = {"latent": torch.randn(2, 2, 3, 4, 4), "index": torch.arange(2), "fps": torch.ones(2), "label": torch.tensor([1, 2])}
    for denoiser, tasks, expected in ((Plain(), {"short": Task()}, set()), (Classes(), PREDICT, {"mask", "label"})):
        module = stage(denoiser, tasks=tasks)
        module.loss(module.draw(batch, list(tasks.values()) * 2, generator_for(0)))
        assert denoiser.seen == [expected]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Condition(mask=torch.ones(1)), "the model takes no mask"),
        (Condition(frames=torch.ones(1)), "the model takes no mask"),
        (Condition(label=torch.ones(1)), "the model has no classes"),
        (Condition(context=torch.ones(1)), "the model takes no text"),
        (Condition(previous=torch.ones(1)), "the model takes no previous clip"),
    ],
)
def test_what_a_network_does_not_take_is_refused_by_name(given: Condition, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_inputs(given.given, DenoiserInputs(), network="the model")
    check_inputs(given.given, DenoiserInputs(mask=True, num_labels=1, context_dim=1, previous=True))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"noise_level": "level"}, "expected null or one of embedding, time"),
        ({"noise_level": "time"}, "needs a mask"),
        ({"mask": True, "noise_level": "embedding"}, "give both or neither"),
        ({"mask": True, "noise_level": "time", "num_noise_levels": 5}, "give both or neither"),
    ],
)
def test_inputs_that_contradict_each_other_are_refused(inputs: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        DenoiserInputs(**inputs)


def test_sampling_refuses_text_that_a_users_network_does_not_take() -> None:
    model = VideoModel(codec(), Plain(), Cosine(), VObjective(), SamplingSettings((2, 3, 4, 4), fps=8, steps=2), name="mine")
    with pytest.raises(UserError, match="mine takes no text"):
        model.sample_latents(1, context=torch.zeros(1, 2, 4))
    model.sample_latents(1)
    assert model.denoiser.seen == [set()] * 2


def test_a_users_network_trains_from_a_config_and_samples_from_its_file(tmp_path: Path, capsys) -> None:
    latents, codec = make_latents(write_videos(tmp_path / "videos"), tmp_path)
    config = diffusion_config(latents, tmp_path, codec)
    config["model"]["params"]["denoiser"] = {"target": "tiny_denoisers.Plain"}
    assert train.main([write_config(tmp_path / "masked.yaml", config), *ALLOW]) == 2
    assert "takes no mask" in capsys.readouterr().err
    config["model"]["params"]["tasks"] = {"short": {"target": "lvdm.training.Task"}}
    assert train.main([write_config(tmp_path / "plain.yaml", config), *ALLOW]) == 0
    assert train.main([write_config(tmp_path / "plain.yaml", config), *ALLOW, "--dry-run"]) == 0
    model = lvdm.load(tmp_path / "plain" / "model.safetensors", allow=["tiny_denoisers"])
    assert model.sample(1).shape == (1, 16, 16, 16, 3)
