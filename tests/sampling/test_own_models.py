"""Parts that a user made: what does not fit is one sentence, at the first call, and no video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_long_video import tiny_model
from test_training import batch, stage
from torch import Tensor, nn

import lvdm
from lvdm.models.codec import Codec
from lvdm.processes import as_device
from lvdm.sampling.long_pipeline import LongOptions, prepare_long_video, sample_long
from lvdm.sampling.pipeline import VideoModel
from lvdm.training.seeding import generator_for
from lvdm.types import Condition, DenoiserInputs, UserError


class Broken(nn.Module):
    inputs = DenoiserInputs(mask=True, noise_level="time", fps=True)

    def __init__(self, answer: float = 0.0, channels: int = 2) -> None:
        super().__init__()
        self.answer, self.channels = answer, channels

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        return torch.full_like(x[:, : self.channels], self.answer)


def with_network(network: nn.Module) -> VideoModel:
    return replace(tiny_model(), denoiser=network)


def test_channels_that_would_broadcast_are_refused() -> None:
    with pytest.raises(UserError, match=r"Broken returned \(1, 1, 5, 2, 2\) for a latent of shape \(1, 2, 5, 2, 2\)"):
        with_network(Broken(channels=1)).sample(1)
    model = stage(denoiser=Broken(channels=1))
    with pytest.raises(UserError, match="Broken returned shape .*, expected that of the latent"):
        model.loss(model.draw(batch(2), list(model.tasks.values())[:2], generator_for(0)))


@pytest.mark.parametrize("answer", [float("nan"), float("inf")])
def test_what_is_not_finite_becomes_no_video(answer: float) -> None:
    model = with_network(Broken(answer))
    with pytest.raises(UserError, match="the model sampled latents that are not finite"):
        model.sample(1)
    with pytest.raises(UserError, match="the model sampled latents that are not finite"):
        next(sample_long(model, model, frames=90))


class Answer(Broken):
    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Any:
        return self.change(x)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(
    ("change", "came"),
    [
        (lambda x: None, "NoneType"),
        (lambda x: (x, x), "tuple"),
        (lambda x: x.to(torch.complex64), "torch.complex64"),
        (lambda x: x.long(), "torch.int64"),
        (lambda x: x > 0, "torch.bool"),
        (lambda x: x.numpy(), "float32"),
    ],
)
def test_a_denoiser_returns_floats(change: Any, came: str, dtype: torch.dtype | None) -> None:
    with pytest.raises(UserError, match=f"Answer returned {came} for a latent of shape"):
        replace(with_network(Answer(change)), dtype=dtype).sample(1)


class Changed(nn.Module):
    """A codec of another package: as that of a model, and what it decodes is changed."""

    def __init__(self, codec: Any, change: Any) -> None:
        super().__init__()
        self.codec, self.change = codec, change

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "codec" else getattr(self.codec, name)

    def decode(self, latent: Tensor) -> Any:
        return self.change(self.codec.decode(latent))

    def decode_stream(self, latents: Any) -> Any:
        return map(self.change, self.codec.decode_stream(latents))


class Decoding(nn.Module):
    """The autoencoder of a model, and what it decodes is changed."""

    def __init__(self, autoencoder: Any, change: Any) -> None:
        super().__init__()
        self.inner, self.change = autoencoder, change
        for name in ("temporal_factor", "spatial_factor", "latent_channels", "decode_halo", "encode"):
            setattr(self, name, getattr(autoencoder, name))

    def decode(self, latent: Tensor) -> Any:
        return self.change(self.inner.decode(latent))


@pytest.mark.parametrize("of", ["codec", "autoencoder"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda video: video * float("nan"), "frames that are not finite"),
        (lambda video: None, "decodes to NoneType"),
        (lambda video: video.numpy(), r"decodes to float32 \(1, 3,"),
        (lambda video: video[:, :, :-1], "decode"),
        (lambda video: video[..., ::2], r"decodes to torch.float32 \(1, 3, .*, 16, 8\), and its factors say floats of shape"),
        (lambda video: video[:, :1], r"decodes to torch.float32 \(1, 1,"),
        (lambda video: video.to(torch.uint8), "decodes to torch.uint8"),
    ],
)
def test_what_a_codec_decodes_wrongly_becomes_no_video(of: str, change: Any, words: str, tmp_path: Path) -> None:
    model = tiny_model()
    assert isinstance(model.codec, Codec)
    model.codec.autoencoder = Decoding(model.codec.autoencoder, change) if of == "autoencoder" else model.codec.autoencoder
    model = model if of == "autoencoder" else replace(model, codec=Changed(model.codec, change))
    with pytest.raises(UserError, match=words):
        lvdm.sample(model, 1, steps=1, out=tmp_path)
    with pytest.raises(UserError, match=words) as refused:
        lvdm.sample_long(model, None, 1, frames=30, steps=1, out=tmp_path)
    assert not list(tmp_path.iterdir()) and len(str(refused.value)) < 300


@pytest.mark.parametrize("part", ["denoiser", "codec"])
def test_a_single_video_that_does_not_fit_is_one_sentence(part: str) -> None:
    def full(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a total capacity of 8 GiB")

    model = tiny_model()
    model = with_network(Answer(full)) if part == "denoiser" else replace(model, codec=Changed(model.codec, full))
    with pytest.raises(UserError, match=r"one of the videos.* does not fit the memory \(CUDA out of memory.*take smaller"):
        model.sample(1, steps=1)
    with pytest.raises(torch.OutOfMemoryError):
        next(sample_long(model, None, frames=30, steps=1))


def test_work_that_did_not_fit_is_not_reported() -> None:
    """Of two videos the batch of both fails at its second step; the reports add up to two videos, and to the latents."""
    calls = []

    def small(x: Tensor) -> Tensor:
        calls.append(len(x))
        if len(x) > 1 and len(calls) > 1:
            raise torch.OutOfMemoryError("no more")
        return x

    reported: list[float] = []
    with_network(Answer(small)).sample_latents(2, steps=3, sampler="ddim", batch_size=2, on_progress=reported.append)
    assert calls[:2] == [2, 2] and sum(reported) == pytest.approx(2)
    calls.clear()
    reported.clear()
    model = with_network(Answer(small))
    made = prepare_long_video(model, None, LongOptions(frames=20, steps=3, sampler="ddim"))
    list(made.latents(0, [0, 1], on_latents=reported.append))
    assert calls[:2] == [2, 2] and sum(reported) == pytest.approx(2 * made.plan.latents)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codec": None}, "has no codec to decode its latents"),
        ({"codec": 3}, "int is no VideoCodec"),
        ({"schedule": None}, "no schedule or no objective"),
        ({"denoiser": nn.Identity()}, "Identity does not say what it takes"),
    ],
)
def test_a_model_built_by_hand_is_checked_before_it_samples(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(tiny_model(), **changes).sample(1)


@pytest.mark.parametrize("name", [None, "mps", "nonsense"])
def test_a_device_that_torch_cannot_use_is_one_sentence(name: str | None) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match=f"there is no device {name} here"):
        as_device(name)
