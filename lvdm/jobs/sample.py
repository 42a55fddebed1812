"""`sample`: short videos from a model file or a loaded model, as an array or written to files as they are sampled."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lvdm.jobs.sampled_files import (
    Model,
    OnProgress,
    as_model,
    as_output,
    batches,
    check_numbers,
    content_of_list,
    folder_name,
    seen_settings,
)
from lvdm.sampling.content import Content
from lvdm.sampling.options import SampleOptions
from lvdm.sampling.output import Output, OutputFiles, open_output
from lvdm.sampling.pipeline import VideoModel, auto_batch
from lvdm.sampling.solver import Solver
from lvdm.types import UserError, video_shape


@dataclass(frozen=True)
class Samples:
    """Sampled videos, and how they were sampled.

    Args:
        videos: uint8 (n, t, h, w, 3); empty if they were written to files.
        numbers: of the sampled videos; a resumed folder had the others.
        paths: the written files, all in `folder`.
        guidance: weight w that was used, 0 without a class or text to guide by.
        label: as requested; labels: the class of each sampled video, None without classes.
        fps: of the files, or of the model if none were written.
    """

    videos: np.ndarray
    numbers: list[int]
    paths: list[Path]
    folder: Path | None
    frames: int
    seed: int
    sampler: str
    eta: float
    steps: int
    seconds: float
    guidance: float
    label: int | None
    labels: list[int] | None
    prompts: list[str]
    fps: float | None


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
    on_progress: OnProgress | None = None,
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
        out: a folder, or an Output with formats, rate, resume: videos are written there and not returned.
        device, dtype, allow: of a model file, as `load` takes them.
        on_progress: called with the videos' worth of work done so far, and with that of all.
    """
    how = SampleOptions(sampler, steps, eta, guidance)
    check_numbers(num, seed, batch_size, videos)
    numbers = _numbers(num, prompts, videos)
    loaded = as_model(model, device, dtype, allow, "model")
    settings, solver = loaded.trained_settings(), loaded.solver(how)
    context = loaded.encode_prompts(prompts) if prompts else None
    frames, _, _ = video_shape(loaded.codec, settings.latent_shape)
    files = None
    if out is not None:
        out = as_output(out)
        shown = {"seed": seed, "label": label, **_shown_prompts(prompts, num), "dtype": loaded.dtype_name}
        decides = seen_settings({"model": model}, how, out, **shown) if out.resume else {}
        files = open_output(out, numbers, name=folder_name(loaded), seed=seed, frames=frames, fps=settings.fps, settings=decides)
        numbers = files.missing
    shows = loaded.content(numbers, seed=seed, label=label, context=None, guidance=guidance)
    start, options = time.perf_counter(), {"seed": seed, "label": label, **how.of_any()}
    made = _sampled(loaded, numbers, num, context, batch_size, options, on_progress)
    kept = _kept(made, loaded, files, is_empty=not numbers)
    paths, folder = ([], None) if files is None else (list(files.paths), files.folder)
    done: dict[str, Any] = {"frames": frames, "seed": seed, "label": label, "prompts": list(prompts)}
    done |= _used(loaded, solver, shows, guidance if prompts or shows.guides else 0.0)
    done["fps"] = settings.fps if files is None else files.fps
    return Samples(kept, list(numbers), paths, folder, **done, seconds=time.perf_counter() - start)


def _used(model: VideoModel, solver: Solver, shows: Content, guidance: float | None) -> dict[str, Any]:
    """Return the sampler, the weight and the classes that were used."""
    return {
        "sampler": solver.sampler.name,
        "eta": solver.eta,
        "steps": len(solver.grid),
        "guidance": model.guidance_or_own(guidance),
        "labels": None if shows.label is None else shows.label.tolist(),
    }


def _numbers(num: int, prompts: Sequence[str], videos: Sequence[int] | None) -> Sequence[int]:
    """Return the numbers of the videos to sample."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not all(isinstance(each, str) for each in prompts):
        raise UserError(f"prompts is {prompts!r:.99}, expected a list of texts")
    total = num * max(1, len(prompts))
    beyond = [] if not prompts else [video for video in videos or () if video >= total]
    if beyond:
        raise UserError(f"videos has {beyond[0]}, and {num} videos of each of {len(prompts)} prompts are 0 to {total - 1}")
    return range(total) if videos is None else videos


def _shown_prompts(prompts: Sequence[str], num: int) -> dict[str, Any]:
    """Return what decides the prompt of a video: with several, their number of videos too."""
    return {"prompts": content_of_list("prompts", prompts), **({"num": num} if len(prompts) > 1 else {})} if prompts else {}


def _sampled(
    model: VideoModel,
    numbers: Sequence[int],
    num: int,
    context: Tensor | None,
    batch_size: int | None,
    options: dict[str, Any],
    on_progress: OnProgress | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each video with its number."""
    size = auto_batch(2 * math.prod(model.trained_settings().latent_shape), model.device) if batch_size is None else batch_size
    done = 0.0

    def report(videos: float = 0.0) -> None:
        nonlocal done
        done += videos
        if on_progress is not None:
            on_progress(done, len(numbers))

    report()
    for batch in batches(numbers, size):
        texts = None if context is None else context[[video // num for video in batch]]
        of_batch = {**options, "first": batch[0], "batch_size": size, "context": texts, "on_progress": report}
        yield from zip(batch, model.sample(len(batch), **of_batch), strict=True)


def _kept(made: Iterator[tuple[int, np.ndarray]], model: VideoModel, files: OutputFiles | None, *, is_empty: bool) -> np.ndarray:
    """Write the videos, or return them as one array."""
    if files is not None:
        files.write(made)
    if files is None and not is_empty:
        return np.stack([video for _, video in made])
    return np.empty((0, *video_shape(model.codec, model.trained_settings().latent_shape), 3), np.uint8)
