"""`sample` and `sample_long`: videos from a model file or a loaded model, as arrays or written to files as they are sampled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lvdm.config.keys import hint
from lvdm.jobs.load import load
from lvdm.models.codec import video_shape
from lvdm.rules import integer, require
from lvdm.sampling import long_pipeline
from lvdm.sampling.options import LongOptions, SampleOptions
from lvdm.sampling.output import Output
from lvdm.sampling.pipeline import VideoModel, auto_batch
from lvdm.types import UserError

Model = VideoModel | str | Path
LONG = {"seed", "video", "start", "on_latents", *(each.name for each in fields(LongOptions))}  # options of sample_long


@dataclass(frozen=True)
class Samples:
    """Sampled videos, and how they were sampled.

    Args:
        videos: uint8 (n, t, h, w, 3); empty if they were written to files.
        paths: the written files.
    """

    videos: np.ndarray
    paths: list[Path]
    frames: int
    seed: int
    sampler: str
    eta: float
    steps: int
    seconds: float


def sample(
    model: Model,
    num: int = 4,
    *,
    prompts: Sequence[str] = (),
    label: int | None = None,
    seed: int = 0,
    sampler: str | None = None,
    steps: int | None = None,
    eta: float | None = None,
    guidance: float | None = None,
    batch_size: int | None = None,
    videos: Sequence[int] | None = None,
    out: Output | str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    allow: Sequence[str] = (),
    on_progress: Callable[[float], None] | None = None,
) -> Samples:
    """Sample short videos, one window of latents each; video i of a seed is the same for any batch size and number of processes.

        lvdm.sample("runs/short/model.safetensors", 8, steps=20, sampler="dpmpp", out="samples").paths

    Args:
        model: a model file or a loaded model.
        num: videos, or videos of each prompt.
        prompts: what to show, for a model with a text encoder; label: the class, for a model trained with classes.
        sampler, steps, eta, guidance: None takes the model's own.
        batch_size: videos at once; None takes as many as are useful.
        videos: numbers of the videos to sample; None is all. With prompts, video i shows prompt i // num.
        out: a folder, or an Output with formats and rate: videos are written there and not returned.
        device, dtype, allow: of a model file, as `load` takes them.
        on_progress: called with the number of videos' worth of work since the last call.
    """
    start = time.perf_counter()
    model, how = as_model(model, device, dtype, allow), SampleOptions(sampler, steps, eta, guidance)
    settings, solver = model.trained_settings(), model.solver(how)
    require(integer(1), num=num)
    require(integer(0), seed=seed)
    out = _opened(out, settings.fps, seed)
    context = _encode_prompts(model, prompts)
    size = auto_batch(2 * math.prod(settings.latent_shape), model.device) if batch_size is None else batch_size
    numbers = range(num * max(1, len(prompts))) if videos is None else videos

    def sampled() -> Iterator[tuple[int, np.ndarray]]:
        for batch in batches(numbers, size):
            texts = None if context is None else context[[video // num for video in batch]]
            options = {"seed": seed, "first": batch[0], "batch_size": size, "label": label, "context": texts}
            yield from zip(batch, model.sample(len(batch), **how.of_any(), **options, on_progress=on_progress), strict=True)

    frames, height, width = video_shape(model.codec, settings.latent_shape)
    kept = np.empty((0, frames, height, width, 3), np.uint8)
    if out is not None:
        out.write(sampled())
    elif len(numbers):
        kept = np.stack([video for _, video in sampled()])
    paths, seconds = [] if out is None else list(out.paths), time.perf_counter() - start
    return Samples(kept, paths, frames, seed, solver.sampler.name, solver.eta, len(solver.grid), seconds)


def sample_long(
    predict: Model,
    infill: Model | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    allow: Sequence[str] = (),
    **options: Any,
) -> Iterator[np.ndarray]:
    """Return an iterator of the frames of one long video, uint8 (h, w, 3).

        frames = lvdm.sample_long("runs/joint/model.safetensors", "runs/joint/model.safetensors", frames=1000, seed=0)

    Args:
        predict: the model that continues given latents, as a file or loaded.
        infill: the model that fills the gaps between sparse keys; it may be `predict`. None samples every latent in order.
        device, dtype, allow: of model files, as `load` takes them.
        options: seed, video, start (uint8 (t, h, w, 3), a video to continue), on_latents, and the fields of LongOptions: frames,
            sampler, steps, eta, guidance, condition_noise, overlap, key_stride, gap_steps, lead_in and so on.
    """
    for name in options.keys() - LONG:
        raise UserError(f"{name} is no option of sample_long; {hint(name, sorted(LONG))}")
    first = as_model(predict, device, dtype, allow)
    second = first if infill is not None and _is_same(predict, infill) else infill
    filling = None if second is None else as_model(second, device, dtype, allow)
    return long_pipeline.sample_long(first, filling, **options)


def as_model(model: Model, device: str | torch.device, dtype: torch.dtype | None, allow: Sequence[str]) -> VideoModel:
    """Return the model, loaded if it is a file."""
    return model if isinstance(model, VideoModel) else load(model, device, dtype, allow=allow)


def batches(videos: Sequence[int], size: int) -> Iterator[range]:
    """Yield ranges of consecutive videos, at most `size` at once."""
    if size < 1:
        raise UserError(f"the batch size is {size}; give 1 or more")
    start = 0
    for end in range(1, len(videos) + 1):
        if end == len(videos) or videos[end] != videos[end - 1] + 1 or end - start == size:
            yield range(videos[start], videos[end - 1] + 1)
            start = end


def _opened(out: Output | str | Path | None, fps: float | None, seed: int) -> Output | None:
    """Return the output, whose folder exists."""
    if isinstance(out, str | Path):
        out = Output(Path(out), fps=fps or Output.fps, seed=seed)
    if out is not None and out.seed != seed:
        raise UserError(f"out names its files by seed {out.seed}, and seed is {seed}; give the same seed to both")
    if out is not None:
        out.folder.mkdir(parents=True, exist_ok=True)
    return out


def _encode_prompts(model: VideoModel, prompts: Sequence[str]) -> Tensor | None:
    if not prompts:
        return None
    if model.text_encoder is None:
        raise UserError(f"{model.name} has no text encoder to read a prompt; leave it out or take a text-to-video model")
    return model.text_encoder(list(prompts))


def _is_same(a: Model, b: Model) -> bool:
    if isinstance(a, VideoModel) or isinstance(b, VideoModel):
        return a is b
    return Path(a).exists() and Path(b).exists() and Path(a).samefile(b)
