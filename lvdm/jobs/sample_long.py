"""`sample_long`: long videos from model files or loaded models, frame by frame or written to files as they are sampled."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from lvdm.config.keys import hint
from lvdm.data.whole_video import read_video
from lvdm.jobs.sampled_files import (
    Model,
    OnProgress,
    as_model,
    as_output,
    batches,
    check_numbers,
    content_of_array,
    folder_name,
    seen_settings,
)
from lvdm.rules import PATH, integer, optional, require
from lvdm.sampling import long_pipeline
from lvdm.sampling.long_pipeline import LongVideo, Video, latents_covering, prepare_long_video
from lvdm.sampling.long_video import OnLatents
from lvdm.sampling.options import LongKeywords, LongOptions
from lvdm.sampling.output import Output, OutputFiles, open_output
from lvdm.sampling.pipeline import VideoModel, auto_batch
from lvdm.types import UserError

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class LongSamples:
    """Long videos that were written to files, and how they were sampled.

    Args:
        numbers: of the sampled videos; a resumed folder had the others.
        paths: the written files, all in `folder`.
        plan: what was decided: latents, windows, sampler, noise levels and so on.
    """

    numbers: list[int]
    paths: list[Path]
    folder: Path
    frames: int
    seed: int
    plan: dict[str, object]
    seconds: float
    label: int | None
    prompt: str | None
    fps: float


@overload
def sample_long(
    predict: Model,
    infill: Model | None = None,
    *,
    video: int = 0,
    seed: int = 0,
    start: Video | str | Path | None = None,
    start_frames: int | None = None,
    on_latents: OnLatents | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    allow: Sequence[str] = (),
    **options: Unpack[LongKeywords],
) -> Iterator[np.ndarray]: ...


@overload
def sample_long(
    predict: Model,
    infill: Model | None = None,
    num: int = 1,
    *,
    out: Output | str | Path,
    videos: Sequence[int] | None = None,
    batch_size: int | None = None,
    on_progress: OnProgress | None = None,
    seed: int = 0,
    start: Video | str | Path | None = None,
    start_frames: int | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    allow: Sequence[str] = (),
    **options: Unpack[LongKeywords],
) -> LongSamples: ...


def sample_long(
    predict: Model,
    infill: Model | None = None,
    num: int = 1,
    *,
    out: Output | str | Path | None = None,
    video: int = 0,
    videos: Sequence[int] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    start: Video | str | Path | None = None,
    start_frames: int | None = None,
    on_latents: OnLatents | None = None,
    on_progress: OnProgress | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    allow: Sequence[str] = (),
    **options: Unpack[LongKeywords],
) -> Iterator[np.ndarray] | LongSamples:
    """Return an iterator of the frames of one long video, uint8 (h, w, 3). With `out`, write videos to files instead.

        frames = lvdm.sample_long("runs/joint/model.safetensors", "runs/joint/model.safetensors", frames=1000, seed=0)
        paths = lvdm.sample_long(model, model, 4, frames=1000, out="samples").paths

    Args:
        predict: the model that continues given latents, as a file or loaded.
        infill: the model that fills the gaps between sparse keys; it may be `predict`. None samples every latent in order.
        out: a folder, or an Output with formats, rate, resume. Only with it: num, videos, batch_size, on_progress.
        num: videos; videos: the numbers of those to sample, None is all; batch_size: videos at once.
        video: its number, for an iterator of frames.
        start: a video to continue, uint8 (t, h, w, 3) or a file; start_frames: only its first ones. They count among `frames`.
        on_latents: for an iterator, called with the number of latents that were sampled since the last call.
        on_progress: called with the frames' worth of work done so far, and with that of all.
        device, dtype, allow: of model files, as `load` takes them.
        options: frames, sampler, steps, eta, guidance, condition_noise, gap_noise, overlap, key_stride, gap_steps, gap_batch and
            lead_in, label and prompt, as in `LongOptions`.
    """
    of_files = {"num": num != 1, "videos": videos, "batch_size": batch_size, "on_progress": on_progress}
    of_frames = {"video": video != 0, "on_latents": on_latents}
    _check_given(options, *((of_files, "without") if out is None else (of_frames, "with")))
    check_numbers(num, seed, batch_size, videos)
    first = as_model(predict, device, dtype, allow, "predict")
    second = first if infill is not None and _is_same(predict, infill) else infill
    filling = None if second is None else as_model(second, device, dtype, allow, "infill")
    how = LongOptions(**options)
    known = _read_start(start, start_frames, first, how.frames)
    if out is None:
        return long_pipeline.sample_long(first, filling, seed=seed, video=video, start=known, on_latents=on_latents, **options)
    made, out = prepare_long_video(first, filling, how, start=known), as_output(out)
    shown = {"seed": seed, "start": None if known is None else content_of_array("start", known), "dtype": first.dtype_name}
    decides = seen_settings({"predict": predict, "infill": infill}, how, out, **shown) if out.resume else {}
    named: dict[str, Any] = {"name": folder_name(first), "seed": seed, "frames": how.frames, "fps": first.trained_settings().fps}
    files = open_output(out, range(num) if videos is None else videos, **named, settings=decides)
    return _write(made, files, how.frames, batch_size, on_progress)


def _check_given(options: Mapping[str, Any], idle: Mapping[str, Any], how: str) -> None:
    """Refuse options that do not exist, and arguments that have no effect with or without `out`."""
    for name in options.keys() - LongKeywords.__annotations__.keys():
        names = {*signature(sample_long).parameters, *LongKeywords.__annotations__} - {"options"}
        raise UserError(f"{name} is no option of sample_long; {hint(name, sorted(names))}")
    for name in (name for name, value in idle.items() if value is not None and value is not False):
        raise UserError(f"{name} has no effect {how} out, which writes videos to files; leave {name} out")


def _read_start(start: Video | str | Path | None, count: int | None, model: VideoModel, frames: int) -> Video | None:
    """Return the frames of a start; those of a file in the model's size."""
    require(optional(integer(1)), start_frames=count)
    if start is None:
        if count is not None:
            raise UserError("start_frames has no effect without start; give both or neither")
        return None
    if isinstance(start, str | Path):
        settings, codec = model.trained_settings(), model.codec
        size = [side * codec.spatial_factor for side in settings.latent_shape[2:]]
        most = codec.frames_of(latents_covering(frames, codec))  # too many for any more to be sampled, which the plan refuses
        return read_video(start, frames=count, at_most=most, size=size)
    if not isinstance(start, np.ndarray | torch.Tensor):
        raise UserError(f"start is {start!r:.99}, expected uint8 frames (t, h, w, 3) or a file")
    if count is not None and count > len(start):
        raise UserError(f"start_frames is {count}, and the start has {len(start)} frames")
    return start[:count]


def _write(
    made: LongVideo, files: OutputFiles, frames: int, batch_size: int | None, on_progress: OnProgress | None
) -> LongSamples:
    """Sample the missing videos and write them, some at once."""
    began, model, plan = time.perf_counter(), made.predict, made.plan
    new = model.codec.frames_of(plan.latents) - model.codec.frames_of(plan.start_latents)  # of one video
    total, done = new * len(files.missing), 0.0

    def report(latents: float = 0.0) -> None:
        nonlocal done
        done += latents * new / max(1, plan.latents - plan.start_latents)
        if on_progress is not None:
            on_progress(done, total)

    report()
    size = auto_batch(2 * math.prod(model.trained_settings().latent_shape), model.device) if batch_size is None else batch_size
    for batch in batches(files.missing, size):
        made.write(files, batch, on_latents=report)
    files.close()
    seconds = time.perf_counter() - began
    asked: dict[str, Any] = {"label": made.options.label, "prompt": made.options.prompt, "fps": files.fps}
    return LongSamples(list(files.missing), files.paths, files.folder, frames, files.seed, made.describe(), seconds, **asked)


def _is_same(a: Model, b: Model) -> bool:
    if isinstance(a, VideoModel) or isinstance(b, VideoModel):
        return a is b
    return PATH.holds(a) and PATH.holds(b) and Path(a).exists() and Path(b).exists() and Path(a).samefile(b)
