"""Continuations and infillings against the truth: models whose answer is known, the best of samples, FVD of new frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_codecs import Brighter
from tiny_evaluation import toys
from torch import Tensor, nn

import lvdm
from lvdm.cli.eval import main
from lvdm.diffusion.objectives import X0Objective
from lvdm.diffusion.schedules import Cosine
from lvdm.evaluation import Moments, frechet_distance
from lvdm.evaluation.completion import Completion
from lvdm.evaluation.given_latents import Given
from lvdm.evaluation.results.provenance import WeightsInMemory
from lvdm.evaluation.results.report import compare
from lvdm.evaluation.results.result import read_result
from lvdm.models.autoencoders.posterior import Posterior
from lvdm.models.codec import Codec
from lvdm.sampling.options import SamplingSettings
from lvdm.sampling.pipeline import VideoModel
from lvdm.sampling.trained import Trained, TrainedTask
from lvdm.types import Condition, DenoiserInputs, UserError

FRAMES, CLIPS = 24, 3
SETTINGS = lvdm.EvalSettings(changes={"frames": FRAMES}, feature_width=1 / 32, device="cpu", is_cached=False)


class MeanOfGiven(nn.Module):
    """Predicts the mean of the given latents in every slot, brighter by its share of the mean of the noise that it sees first."""

    inputs = DenoiserInputs(mask=True)

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread = nn.Parameter(torch.tensor(spread))

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        assert cond is not None and cond.frames is not None and cond.mask is not None
        mean = (cond.frames * cond.mask).sum(2, keepdim=True) / cond.mask.sum(2, keepdim=True)
        return (mean + self.spread * x.mean((1, 2, 3, 4), keepdim=True)).expand_as(x)


def model(spread: float = 0.0) -> VideoModel:
    """Of latents of 2 frames and 2 x 2 pixels, that its codec keeps whole."""
    settings = SamplingSettings((24, FRAMES // 2, 8, 8), steps=1, condition_noise=0, gap_noise=0, spacing="trailing")
    return VideoModel(Codec(Brighter()), MeanOfGiven(spread), Cosine(), X0Objective(), settings)


def still(count: int = CLIPS) -> np.ndarray:
    return toys(count, frames=1).repeat(FRAMES, axis=1)


@pytest.mark.parametrize("kind", ["continuation", "infilling"])
def test_a_model_that_repeats_what_it_is_given_completes_still_clips_without_error(kind: str) -> None:
    result = lvdm.evaluate_completion(model(), still(), kind, given=2, settings=SETTINGS)
    assert result.values["psnr_frame"].value > 90 and result.values["ssim"].value == pytest.approx(1, abs=1e-6)
    assert result.fake.kind == kind and result.num_real == CLIPS and result.real.split is None
    assert "psnr_clip_n3" in result.metrics and not any(name.startswith("fvd") for name in result.values)


@pytest.mark.parametrize(("kind", "new"), [("continuation", slice(4, FRAMES)), ("infilling", slice(4, FRAMES - 4))])
def test_only_new_frames_are_compared_with_the_truth(kind: str, new: slice) -> None:
    """Of clips whose new frames are 51 levels brighter than the given ones: an error of 2 * 51 / 255 in [-1, 1]."""
    clips = np.full((2, FRAMES, 16, 16, 3), 100, np.uint8)
    clips[:, new] += 51
    result = lvdm.evaluate_completion(model(), clips, kind, given=2, settings=SETTINGS)
    expected = 10 * np.log10(4 / (2 * 51 / 255) ** 2)
    assert result.values["psnr_clip"].value == pytest.approx(expected, rel=1e-4)
    assert result.values["psnr_frame"].value == pytest.approx(expected, rel=1e-4)


def test_the_best_of_several_samples_is_each_clips_own() -> None:
    noisy, clips = model(spread=3.0), still()
    result = lvdm.evaluate_completion(noisy, clips, samples=3, settings=SETTINGS)
    how = Completion("continuation", WeightsInMemory("m", "0"), noisy, lvdm.Sampling(), Given(1), 3, {})
    found = []
    for number, clip in enumerate(torch.from_numpy(clips)):
        made = how.complete(clip, number)[:, :, 2:].clamp(-1, 1)
        true = (clip[2:].permute(3, 0, 1, 2) / 127.5 - 1)[None]
        found.append(10 * np.log10(4 / (made - true).square().mean((1, 2, 3, 4)).numpy()))
    assert np.ptp(found, axis=1).min() > 0.1, "samples differ"
    assert result.values["psnr_clip_best"].value == pytest.approx(np.max(found, axis=1).mean(), rel=1e-4)
    assert result.values["psnr_clip"].value == pytest.approx(np.mean(found), rel=1e-4)
    assert (result.fake.samples, result.fake.given) == (3, 1)


class OfWholeClip(Brighter):
    """Subtracts the mean of all frames that it is given, as a norm over time sees them all."""

    def encode(self, video: Tensor) -> Posterior:
        return super().encode(video - video.mean())


def test_an_infill_model_infills_and_does_not_see_the_new_frames() -> None:
    trained = Trained({"infill": TrainedTask(1, [[], [0, 11]])})
    infill = replace(model(), codec=Codec(OfWholeClip()), trained=trained)
    how = Completion("infilling", WeightsInMemory("m", "0"), infill, lvdm.Sampling(), Given(1), 2, {})
    clip = torch.from_numpy(toys(1, frames=FRAMES)[0])
    other = clip.clone()
    other[2:-2] = 255
    torch.testing.assert_close(how.complete(clip, 0), how.complete(other, 0))


def test_what_is_given_is_what_the_model_learned() -> None:
    def trained(stride: int) -> VideoModel:
        return replace(model(), trained=Trained({"predict": TrainedTask(stride, [[0, 1, 2], [0, 1, 2, 3]])}))

    assert lvdm.evaluate_completion(trained(1), still(), settings=SETTINGS).fake.given == 3
    with pytest.raises(UserError, match="given is 2, and the model was trained to continue 3 or 4 latents"):
        lvdm.evaluate_completion(trained(1), still(), given=2, settings=SETTINGS)
    with pytest.raises(UserError, match="trained on latents 4 apart and fills no gaps; give a joint model"):
        lvdm.evaluate_completion(trained(4), still(), settings=SETTINGS)
    infill = replace(model(), trained=Trained({"infill": TrainedTask(1, [[], [0, 1, 10, 11]])}))
    assert lvdm.evaluate_completion(infill, still(), "infilling", settings=SETTINGS).fake.given == 2


def test_a_joint_model_continues_keys_and_fills_the_gaps_as_it_learned_to() -> None:
    """Of a window of 9 keys, every second latent: 17 latents of 2 frames, the first 3 of them given by 2 keys."""
    tasks = {"predict": TrainedTask(2, [[0, 1]]), "infill": TrainedTask(1, [[0, 2, 4, 6, 8]])}
    settings = SamplingSettings((24, 9, 8, 8), steps=1, condition_noise=0, gap_noise=0, spacing="trailing")
    joint, clips = replace(model(), settings=settings, trained=Trained(tasks)), np.full((2, 34, 16, 16, 3), 100, np.uint8)
    clips[:, 6:] += 51
    result = lvdm.evaluate_completion(joint, clips, settings=replace(SETTINGS, changes={}))
    assert result.protocol.frames == 34 and (result.fake.given, result.num_real) == (2, 2)
    assert result.values["psnr_clip"].value == pytest.approx(10 * np.log10(4 / (2 * 51 / 255) ** 2), rel=1e-4)


def test_completions_of_other_conditions_are_not_compared() -> None:
    one, clips = lvdm.evaluate_completion(model(), still(), given=2, settings=SETTINGS), still()
    for options, words in (({"given": 3}, "given: 2 and 3"), ({"given": 2, "samples": 2}, "samples: 1 and 2"),
                           ({"given": 2, "kind": "infilling"}, "kind: continuation and infilling")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            compare(one, lvdm.evaluate_completion(model(), clips, **options, settings=SETTINGS))


def test_fvd_is_that_of_the_new_frames_alone() -> None:
    clips = toys(CLIPS, frames=FRAMES)
    found = lvdm.evaluate_completion(model(), clips, given=2, features="random", settings=SETTINGS)
    true = lvdm.features(clips[:, 4:], "random", settings=SETTINGS)
    given = clips[:, :4].reshape(CLIPS, 2, 2, 16, 16, 3).astype(float).mean(1)  # what is repeated, for two frames
    made = lvdm.features(np.floor(np.tile(given, (1, 10, 1, 1, 1)) + 1e-3).astype(np.uint8), "random", settings=SETTINGS)
    expected = frechet_distance(Moments.of(true), Moments.of(made), ddof=found.protocol.ddof)
    assert found.values["fvd_new"].value == pytest.approx(expected, rel=1e-3) and expected > 0
    assert not found.can_compare("fvd_new") and found.can_compare("psnr_clip")


def test_what_cannot_be_completed_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, sentence in (
        ({"given": 12}, "given is 12, and a clip of 24 frames has 12 latents; give fewer"),
        ({"given": 6, "kind": "infilling"}, "given is 6, and a clip of 24"),
        ({"given": 9, "features": "random"}, "6 frames are new, and random-i3d .* takes 9 or more; leave features out"),
        ({"kind": "dream"}, "kind is 'dream'; give continuation or infilling"),
        ({"samples": 0}, "samples is 0; give 1 or more"),
    ):
        with pytest.raises(UserError, match=sentence):
            lvdm.evaluate_completion(model(), still(), **options, settings=SETTINGS)
    longer = replace(SETTINGS, changes={"frames": 20})
    with pytest.raises(UserError, match="an infilling has the 24 frames of the model's window, not 20"):
        lvdm.evaluate_completion(model(), still(), "infilling", settings=longer)


def test_the_command_does_what_the_function_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from tiny_models import describe, tensors_of

    from lvdm.checkpoints.model_file import ModelInfo, save_model

    described = describe("diffusion")
    described["denoiser"]["params"]["mask_channel"] = True
    save_model("m.safetensors", tensors_of(described), ModelInfo(**described))
    np.save("real.npy", toys(2, frames=16))
    options = ["--model", "m.safetensors", "--real", "real.npy", "--device", "cpu", "--samples", "2", "--steps", "2"]
    for kind in ("continuation", "infilling"):
        assert main(["completion", *options, "--kind", kind, "--no-cache", "--out", f"{kind}.json"]) == 0
        found = read_result(f"{kind}.json")
        assert found.fake.kind == kind and found.fake.steps == 2
        same = lvdm.evaluate_completion("m.safetensors", "real.npy", kind, samples=2, sampling=lvdm.Sampling(steps=2),
                                        settings=lvdm.EvalSettings(device="cpu", is_cached=False))  # fmt: skip
        assert found.values["psnr_clip_best"].value == pytest.approx(same.values["psnr_clip_best"].value)
