"""Classes and texts in sampling: a network whose answer is known for each class and text, so that every video is too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_long_video import WINDOW, tiny_model
from torch import Tensor

from lvdm.diffusion.objectives import X0Objective
from lvdm.sampling.content import choose_labels
from lvdm.sampling.long_pipeline import LongOptions, prepare_long_video
from lvdm.sampling.pipeline import VideoModel
from lvdm.sampling.trained import Trained, TrainedTask, warn_once
from lvdm.types import Condition, DenoiserInputs, UserError

TASKS = {name: TrainedTask(stride, None) for name, stride in (("keys", 4), ("gaps", 1))}
DROPPED = Trained(TASKS, labels=[0, 2, 3], label_dropout=0.1)
ALWAYS = replace(DROPPED, label_dropout=0.0)


@pytest.fixture(autouse=True)
def _warn_anew() -> Iterator[None]:
    warn_once.cache_clear()
    yield


class Known:
    """Predicts x0 = (label + 1) / 10 everywhere, 0 without class, plus the text's only number."""

    inputs = DenoiserInputs(mask=True, noise_level="time", num_labels=4, context_dim=1)

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        assert cond is not None
        answer = torch.zeros(len(x)) if cond.label is None else (cond.label + 1) / 10
        answer = answer if cond.context is None else answer + cond.context[:, 0, 0]
        return answer[:, None, None, None, None].expand_as(x)


class Texts:
    """The number of letters over 100; the empty text is -.05."""

    def __call__(self, captions: list[str]) -> Tensor:
        return torch.tensor([len(caption) / 100 or -0.05 for caption in captions])[:, None, None]

    def fingerprint(self) -> str:
        return "letters"

    def to(self, device: torch.device | str) -> Texts:
        return self


def known(trained: Trained | None = DROPPED) -> VideoModel:
    return replace(tiny_model(), denoiser=Known(), objective=X0Objective(), text_encoder=Texts(), trained=trained)


def long_latents(model: VideoModel, videos: list[int], **options: object) -> Tensor:
    made = prepare_long_video(model, model, LongOptions(frames=90, gap_batch=3, **options))
    return torch.cat(list(made.latents(7, videos)), dim=2)


# Guidance ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [DROPPED, None])
@pytest.mark.parametrize("w", [0.0, 2.0])
def test_guidance_is_against_the_null_class(w: float, trained: Trained | None) -> None:
    """eps_c + w (eps_c - eps_u) is x0_c + w (x0_c - x0_u), and x0_u is 0 here."""
    expected = (1 + w) * 0.4
    assert known(trained).sample_latents(2, label=3, guidance=w).sub(expected).abs().max() < 1e-2
    assert long_latents(known(trained), [0, 1], label=3, guidance=w).sub(expected).abs().max() < 1e-2


@pytest.mark.parametrize("w", [0.0, 2.0])
def test_guidance_is_against_the_empty_prompt(w: float) -> None:
    model, expected = known(), 0.2 + w * (0.2 + 0.05)
    context = model.encode_prompts(["x" * 20])
    assert model.sample_latents(2, context=context, guidance=w).sub(expected).abs().max() < 1e-2
    assert long_latents(model, [0, 1], prompt="x" * 20, guidance=w).sub(expected).abs().max() < 1e-2


def test_given_latents_stay_in_the_pass_without_class() -> None:
    model, seen = known(), []

    class Spy(Known):
        def __call__(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
            assert cond is not None and cond.mask is not None and cond.label is not None
            given, label = cond.mask[:, 0, :, 0, 0], cond.label
            seen.append(torch.equal(given[: len(x) // 2], given[len(x) // 2 :]) and (label[len(x) // 2 :] < 0).all())
            return super().__call__(x, t, cond)

    long_latents(replace(model, denoiser=Spy()), [0], label=2, guidance=0.5)
    assert len(seen) > 3 and all(seen)


@pytest.mark.parametrize(
    ("trained", "options", "words"),
    [
        (ALWAYS, {"label": 2, "guidance": 1.0}, "has no null class, because its label_dropout was 0"),
        (DROPPED, {"guidance": 1.0}, "nothing to guide by"),
        (DROPPED, {"label": 1}, "the label is 1, and the model saw no video of this class"),
        (None, {"label": 4}, "the label is 4, and the model knows classes 0 to 3"),
        (None, {"label": [-1, 2]}, "the label is -1, and the model knows classes 0 to 3"),
        (None, {"label": "x"}, "label is 'x', expected a class, which is an integer"),
        (None, {"label": True}, "label is True, expected a class"),
        (None, {"label": 1.0}, "label is 1.0, expected a class"),
        (None, {"label": 10**30}, "label is 1000.*, expected a class"),
        (None, {"label": [0, [1]]}, "expected a class"),
        (None, {"label": [0, 1, 2]}, "3 labels came for 2 videos"),
    ],
)
def test_classes_that_cannot_work_are_refused(trained: Trained | None, options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        known(trained).sample_latents(2, **options)


def test_a_long_video_refuses_what_no_model_takes() -> None:
    plain = tiny_model()
    with pytest.raises(UserError, match="has no classes; leave the label out"):
        prepare_long_video(plain, plain, LongOptions(frames=90, label=0))
    with pytest.raises(UserError, match="takes no text"):
        prepare_long_video(plain, plain, LongOptions(frames=90, prompt="a dog"))
    with pytest.raises(UserError, match="saw no video of this class"):
        prepare_long_video(known(), known(), LongOptions(frames=90, label=1))


# Without a class ---------------------------------------------------------------------------------------------------------


def test_with_a_null_class_a_video_without_class_is_unconditional(caplog: pytest.LogCaptureFixture) -> None:
    assert known().sample_latents(2).abs().max() < 1e-2
    assert "its videos are unconditional" in caplog.text


def test_without_a_null_class_each_video_has_its_own_by_the_seed(caplog: pytest.LogCaptureFixture) -> None:
    model = known(ALWAYS)
    short = model.sample_latents(6, seed=7).mean(dim=(1, 2, 3, 4))
    in_pairs = torch.cat([model.sample_latents(2, seed=7, first=first) for first in (0, 2, 4)]).mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(short, in_pairs)
    long = long_latents(model, [0, 1, 2, 3, 4, 5])
    assert (long - short[:, None, None, None, None]).abs().max() < 1e-2, "every window of a video has the video's class"
    assert "each video gets one of its 3, by the seed" in caplog.text
    assert long.shape[2] > WINDOW


def test_drawn_classes_are_even_over_those_that_were_trained() -> None:
    drawn = choose_labels(None, range(3000), seed=0, classes=4, trained=ALWAYS, name="m")
    assert drawn is not None
    counts = Counter(drawn)
    assert set(counts) == {0, 2, 3}
    assert all(abs(count - 1000) < 4 * np.sqrt(3000 * 2 / 9) for count in counts.values())
