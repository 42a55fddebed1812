"""A long video from trained models: options and a start become a plan, samplers and a stream of frames (LVDM section 3.3).

Letters: n latents of the start, v videos, c channels, t frames, h w; s level of given latents.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from lvdm.rules import integer, require
from lvdm.sampling.content import Content
from lvdm.sampling.decoding import decode_stream
from lvdm.sampling.long_checks import check_mask, check_takes_given, check_trained, inputs_of, warn_of_plan
from lvdm.sampling.long_video import OnLatents, WindowSampler, long_latents
from lvdm.sampling.noise import VIDEO_NUMBER, VideoNoise
from lvdm.sampling.options import LongKeywords, LongOptions, SamplingSettings
from lvdm.sampling.output import OutputFiles
from lvdm.sampling.pipeline import VideoModel, auto_batch, check_finite, check_level, to_uint8
from lvdm.sampling.trained import check_level_trained, check_pattern, check_rate
from lvdm.sampling.windows import Plan, plan
from lvdm.types import UserError, VideoCodec, check_inputs

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

STAGES = {"key": 1, "gap": 2}  # first number of a noise stream's stage; 0 is a short video
Video = np.ndarray | Tensor  # uint8 (t, h, w, 3)
T = TypeVar("T")


@dataclass(frozen=True)
class LongVideo:
    """A long video that is planned and checked, and of which any number can be sampled."""

    plan: Plan
    predict: VideoModel
    keys: WindowSampler
    gaps: WindowSampler | None
    start: Tensor  # (1, c, n, h, w)
    options: LongOptions
    lead_in: int  # the plan's first frames, which are left out
    infill: VideoModel | None = None

    def latents(self, seed: int, videos: Sequence[int], *, on_latents: OnLatents | None = None) -> Iterator[Tensor]:
        """Yield latents (v, c, t, h, w) of these videos of a seed, in order, as they are sampled; the lead-in comes first."""
        sampled = long_latents(
            self.plan,
            keys=_showing(self.predict, self.keys, self.options, seed, videos),
            gaps=None if self.gaps is None else _showing(self.infill or self.predict, self.gaps, self.options, seed, videos),
            start=self.start.expand(len(videos), -1, -1, -1, -1),
            noise_for=lambda stage, index: VideoNoise(seed, videos, stage=(STAGES[stage], index)),
            gap_batch=self._gaps_at_once(len(videos)),
            on_latents=on_latents,
            shrinks=self.predict.batches.shrinks,
        )
        return (check_finite(latents, self.predict.name) for latents in sampled)

    def frames(self, seed: int, videos: Sequence[int], *, on_latents: OnLatents | None = None) -> Iterator[np.ndarray]:
        """Yield uint8 (v, t, h, w, 3) with any t, exactly the requested frames in all."""
        yield from map(to_uint8, self.videos(seed, videos, on_latents=on_latents))

    def videos(self, seed: int, videos: Sequence[int], *, on_latents: OnLatents | None = None) -> Iterator[Tensor]:
        """Yield the same as floats (v, 3, t, h, w), about in [-1, 1]."""
        first, end = self.lead_in, self.plan.frames  # counted from where the next chunk begins
        model, latents = self.predict, self.latents(seed, videos, on_latents=on_latents)
        for chunk in decode_stream(model.codec, latents, model.trained_settings().latent_shape, model.name):
            if first < chunk.shape[2]:
                yield chunk[:, :, first:end]
            first, end = max(0, first - chunk.shape[2]), max(0, end - chunk.shape[2])

    def write(self, out: OutputFiles, videos: Sequence[int], *, on_latents: OnLatents | None = None) -> None:
        """Sample these videos of the output's seed together, and write each frame as soon as it exists."""
        with ExitStack() as stack:
            files = [stack.enter_context(out.open(video)) for video in videos]
            for chunk in self.frames(out.seed, videos, on_latents=on_latents):
                for writer, shown in zip(files, chunk, strict=True):
                    writer.write(shown)

    def describe(self) -> dict[str, object]:
        """Return what was decided, for a report."""
        plan, keys, gaps = self.plan, self.keys, self.gaps
        return {
            "latents": plan.latents,
            "lead_in": self.lead_in,
            "start_latents": plan.start_latents,
            "window": plan.window,
            "overlap": plan.overlap,
            "key_stride": plan.key_stride,
            "key_windows": plan.num_key_windows,
            "gap_window": plan.gap_window,
            "gap_windows": plan.num_gap_windows,
            "sampler": keys.solver.sampler.name,
            "eta": keys.solver.eta,
            "steps": len(keys.solver.grid),
            "gap_steps": None if gaps is None else len(gaps.solver.grid),
            "condition_noise": keys.level,
            "gap_noise": None if gaps is None else gaps.level,
            "guidance": keys.guidance,
        }

    def _gaps_at_once(self, videos: int) -> int:
        if self.gaps is None or self.options.gap_batch != "auto":
            return 1 if self.gaps is None else int(self.options.gap_batch)
        assert self.plan.gap_window is not None
        c, _, h, w = self.start.shape[1:]
        passes = 1 if self.gaps.guidance == 0 else 2
        return auto_batch(videos * passes * c * self.plan.gap_window * h * w, self.predict.device)


def sample_long(
    predict: VideoModel,
    infill: VideoModel | None = None,
    *,
    seed: int = 0,
    video: int = 0,
    start: Video | None = None,
    on_latents: OnLatents | None = None,
    **options: Unpack[LongKeywords],
) -> Iterator[np.ndarray]:
    """Yield one long video, frame by frame, uint8 (h, w, 3): video number `video` of the seed.

    Args:
        predict: samples the keys, or every latent if there is no `infill`.
        infill: fills the gaps between keys; may be `predict` itself.
        start: uint8 (t, h, w, 3), a video to continue; its frames count among `frames`.
        on_latents: called with the number of latents that were sampled since the last call.
        options: those of `LongOptions`: frames, sampler, steps, guidance and so on.
    """
    require(integer(0), seed=seed)
    require(VIDEO_NUMBER, video=video)
    made = prepare_long_video(predict, infill, LongOptions(**options), start=start)
    return (frame for chunk in made.frames(seed, [video], on_latents=on_latents) for frame in chunk[0])


def prepare_long_video(
    predict: VideoModel, infill: VideoModel | None, options: LongOptions, *, start: Video | None = None
) -> LongVideo:
    """Check that models, options and start fit together, and plan the video."""
    settings = predict.trained_settings()
    options.check(has_infill=infill is not None, has_start=start is not None)
    filling = None if infill is None else _infill_settings(predict, infill)
    known = _encode_start(predict, start)
    lead_in = 0 if start is not None else _or(options.lead_in, settings.lead_in)
    frames = lead_in + options.frames
    made = plan(
        frames,
        latents=latents_covering(frames, predict.codec),
        window=settings.latent_shape[1],
        overlap=settings.overlap if options.overlap is None else options.overlap,
        key_stride=1 if filling is None else _or(options.key_stride, settings.key_stride),
        gap_window=None if filling is None else filling.latent_shape[1],
        start_latents=known.shape[2],
    )
    check_mask(predict, infill, made)
    check_trained(predict, infill, made)
    _check_content(predict, infill, options)
    warn_of_plan(predict, made)
    keys = _window_sampler(predict, options, stride=made.key_stride, level=_or(options.condition_noise, settings.condition_noise))
    if infill is None or filling is None:
        return LongVideo(made, predict, keys, None, known, options, lead_in)
    return LongVideo(made, predict, keys, _gap_sampler(infill, options), known, options, lead_in, infill)


def gap_sampler(
    infill: VideoModel, options: LongOptions, given: Sequence[int], *, seed: int, videos: Sequence[int]
) -> WindowSampler:
    """Return what fills single windows of consecutive latents, of these videos of a seed, between the slots `given`."""
    check_takes_given(infill)
    check_pattern(infill.trained, infill.name, tuple(given), stride=1)
    return _showing(infill, _gap_sampler(infill, options), options, seed, videos)


def _gap_sampler(infill: VideoModel, options: LongOptions) -> WindowSampler:
    filling = infill.trained_settings()
    steps = _or(options.gap_steps, _or(options.steps, filling.gap_steps))
    return _window_sampler(infill, replace(options, steps=steps), stride=1, level=_or(options.gap_noise, filling.gap_noise))


def latents_covering(frames: int, codec: VideoCodec) -> int:
    """Return the smallest number of latents that decode to at least these frames."""
    whole = codec.latents_of(frames)
    return whole + (codec.frames_of(whole) < frames)


def _window_sampler(model: VideoModel, options: LongOptions, *, stride: int, level: int) -> WindowSampler:
    settings = model.trained_settings()
    assert model.schedule is not None and model.denoiser is not None
    check_level(level, model)
    if model.denoiser.inputs.noise_level is not None:
        check_level_trained(model.trained, model.name, level)
    if model.denoiser.inputs.fps:
        check_rate(model.trained, model.name, settings.fps)
    return WindowSampler(
        predict=model.predictor(),
        schedule=model.schedule,
        solver=model.solver(options),
        level=level,
        guidance=_or(options.guidance, settings.guidance),
        fps=None if settings.fps is None else settings.fps / stride,
        inputs=model.denoiser.inputs,
    )


def _encode_start(model: VideoModel, start: Video | None) -> Tensor:
    """Return (1, c, n, h, w), as many whole latents as the start has frames for; without a start, none."""
    c, _, h, w = model.trained_settings().latent_shape
    if start is None:
        return torch.zeros(1, c, 0, h, w, device=model.device)
    frames = torch.as_tensor(start)
    size = (h * model.codec.spatial_factor, w * model.codec.spatial_factor)
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1:] != (*size, 3):
        came = f"{frames.dtype} of shape {tuple(frames.shape)}"
        raise UserError(
            f"the start is {came}; this model continues uint8 (frames, {size[0]}, {size[1]}, 3); "
            f"read it by lvdm.read_video(path, size={size}), or give its path"
        )
    n = model.codec.latents_of(len(frames))
    if n == 0:
        least = model.codec.frames_of(1)
        raise UserError(f"the start has {len(frames)} frames, and one latent stands for {least}; give at least that many")
    video = frames[: model.codec.frames_of(n)].to(model.device).float() / 127.5 - 1
    return model.codec.encode(video.permute(3, 0, 1, 2)[None]).float()


def _infill_settings(predict: VideoModel, infill: VideoModel) -> SamplingSettings:
    """Check that both models are of the same latents, and return the infill model's settings."""
    settings, filling = predict.trained_settings(), infill.trained_settings()
    if infill is not predict and infill.codec.fingerprint() != predict.codec.fingerprint():
        raise UserError(
            f"{predict.name} and {infill.name} were trained on latents of different autoencoders; "
            "train both with the same codec_weights"
        )
    c, _, h, w = settings.latent_shape
    if (filling.latent_shape[0], *filling.latent_shape[2:]) != (c, h, w):
        shapes = f"{list(settings.latent_shape)} and {list(filling.latent_shape)}"
        raise UserError(f"{predict.name} and {infill.name} make latents of shapes {shapes}, (c, t, h, w); only t may differ")
    return filling


def _check_content(predict: VideoModel, infill: VideoModel | None, options: LongOptions) -> None:
    """Refuse a class or prompt that no model takes, or that a model does not know."""
    asked = {"label": options.label, "context": options.prompt}
    models = [predict] if infill is None or infill is predict else [predict, infill]
    for part, value in asked.items():
        if value is not None and not any(_takes(model, part) for model in models):
            check_inputs([part], inputs_of(predict), network=predict.name)
    for model in models:
        _content(model, options, options.guidance, 0, [0])


def _showing(model: VideoModel, sampler: WindowSampler, options: LongOptions, seed: int, videos: Sequence[int]) -> WindowSampler:
    return replace(sampler, content=_content(model, options, sampler.guidance, seed, videos))


def _content(model: VideoModel, options: LongOptions, guidance: float | None, seed: int, videos: Sequence[int]) -> Content:
    """Return what the videos show, of what this model takes; the other model may take more."""
    label = options.label if _takes(model, "label") else None
    prompt = options.prompt if _takes(model, "context") else None
    context = None if prompt is None else model.encode_prompts([prompt])
    return model.content(videos, seed=seed, label=label, context=context, guidance=guidance)


def _takes(model: VideoModel, part: str) -> bool:
    inputs = inputs_of(model)
    return inputs.num_labels > 0 if part == "label" else inputs.context_dim is not None


def _or(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value
