"""A trained model to sample from: network, schedule, objective and codec together (LVDM section 3.1 to 3.3).

Letters: n videos, b videos sampled at once, c channels, t latents or frames, h w; w guidance weight, in the convention
eps = eps_c + w (eps_c - eps_u), so that w = 0 is off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lvdm.batching import Batches, fitting, taking_back
from lvdm.diffusion.guidance import guided, predict_x0
from lvdm.diffusion.objectives import Objective
from lvdm.diffusion.schedules import NoiseSchedule
from lvdm.rules import integer, optional, require
from lvdm.sampling.content import Content, check_texts, choose_labels, has_null_class
from lvdm.sampling.decoding import decode_each
from lvdm.sampling.noise import VIDEO_NUMBER, VideoNoise
from lvdm.sampling.options import SampleOptions, SamplingSettings
from lvdm.sampling.samplers import SAMPLERS
from lvdm.sampling.solver import Solver, make_solver
from lvdm.sampling.trained import Trained, check_rate, short_stride, warn_once
from lvdm.types import (
    Condition,
    Denoiser,
    DenoiserInputs,
    Predictor,
    TextEncoder,
    UserError,
    VideoCodec,
    check_codec,
    check_denoiser,
    check_inputs,
)

SHORT = 0  # first number of a noise stream's stage: what kind of window it is for
CPU_ELEMENTS = 20_000  # latent elements in one batch on a CPU: more fall out of its cache and are slower (measured)
CUDA_BYTES = 16 << 10  # memory that one latent element may need in a network, with room to spare

MODELS_OWN = SampleOptions()
OnProgress = Callable[[float], None]


@dataclass(frozen=True)
class Loaded:
    """A model file and the networks that were read from it."""

    path: Path
    codec: VideoCodec
    denoiser: Denoiser | None


@dataclass(frozen=True)
class VideoModel:
    """A model in memory.

    Args:
        codec: video <-> normalised latent.
        denoiser, schedule, objective, settings: the diffusion model; all None for an autoencoder alone.
        device: where the networks are.
        dtype: the denoiser runs in this type by autocast; None is float32. A codec has its own `compute_dtype`.
        text_encoder: prompts to context, if the model reads text.
        trained: what it was trained to do, if that is recorded.
        name: its name in messages.
        description: of its model file, if it was loaded from one: how its parts are built, and what they were trained on.
        loaded: the model file, and the networks that were read from it.
        batches: the largest batch of videos that has fitted the memory.
    """

    codec: VideoCodec
    denoiser: Denoiser | None = None
    schedule: NoiseSchedule | None = None
    objective: Objective | None = None
    settings: SamplingSettings | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype | None = None
    text_encoder: TextEncoder | None = None
    trained: Trained | None = None
    name: str = "the model"
    description: Mapping[str, Any] = field(default_factory=dict)
    loaded: Loaded | None = None
    batches: Batches = field(default_factory=lambda: Batches("videos"), repr=False, compare=False)

    @property
    def path(self) -> Path | None:
        """Return the model file, if the networks are those that were read from it."""
        read = self.loaded
        return read.path if read is not None and self.codec is read.codec and self.denoiser is read.denoiser else None

    @property
    def dtype_name(self) -> str:
        """Return the type in which the networks run, such as "bfloat16"."""
        return str(self.dtype or torch.float32).removeprefix("torch.")

    def sample(self, num: int = 1, **options: Any) -> np.ndarray:
        """Return short videos, uint8 (n, t, h, w, 3); the options are those of `sample_latents`."""
        latents = check_finite(self.sample_latents(num, **options), self.name)
        return np.concatenate([to_uint8(video) for video in decode_each(self.codec, latents, self.name)])

    @torch.no_grad()
    def sample_latents(
        self,
        num: int = 1,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        guidance: float | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        label: int | Sequence[int] | None = None,
        context: Tensor | None = None,
        noise: Tensor | None = None,
        on_progress: OnProgress | None = None,
    ) -> Tensor:
        """Return latents (n, c, t, h, w) of the videos first, ..., first + num - 1 of a seed.

        Args:
            steps, sampler, eta, guidance: as in `SampleOptions`; None takes the model's own.
            batch_size: videos at once, which changes time and memory only. None: as many as are useful. What does not fit the
                memory runs again in halves.
            label: class of all videos, or one for each; None is `choose_labels`.
            context: text features (n, l, d), or (1, l, d) for all.
            noise: a given start (n, c, t, h, w) instead of the seed's.
            on_progress: called after every step with its share of the work, in videos.
        """
        require(integer(0), seed=seed)
        require(VIDEO_NUMBER, first=first)
        solver = self.solver(SampleOptions(sampler, steps, eta))
        shape = self._window_shape(num, noise)
        content = self.content(range(first, first + num), seed=seed, label=label, context=context, guidance=guidance)
        if guidance and not content.guides:
            why = "without a label or text there is nothing to guide by"
            why = why if content.label is None else f"{self.name} has no null class, because its label_dropout was 0"
            raise UserError(f"guidance is {guidance}, but {why}; leave it out")
        cond, scale = self._condition(num, content), self.guidance_or_own(guidance) if content.guides else 0.0
        uncond = content.left_out(cond) if scale else None
        require(optional(integer(1)), batch_size=batch_size)
        size = batch_size or auto_batch(int(np.prod(shape)) * (1 if scale == 0 else 2), self.device)

        def sample(rows: slice) -> Tensor:
            streams = VideoNoise(seed, range(first + rows.start, first + rows.stop), stage=(SHORT,))
            x = (streams((len(streams), *shape)) if noise is None else noise[rows].float()).to(self.device)
            denoise = guided(self.predictor(), _rows(cond, rows), None if uncond is None else _rows(uncond, rows), scale=scale)
            with taking_back(on_progress or _ignore) as report:
                return solver(denoise, x, noise=streams, on_step=lambda step: report(len(streams) / len(solver.grid)))

        return torch.cat([*self.batches.over(num, sample, size)])

    def solver(self, options: SampleOptions = MODELS_OWN) -> Solver:
        """Return the solver with these options, and the model's own sampler, steps and eta for what they leave open."""
        settings = self.trained_settings()
        assert self.schedule is not None
        name, steps, eta = options.sampler or settings.sampler, options.steps, options.eta
        visits_all = name in SAMPLERS and SAMPLERS[name].usual_steps is None
        if steps is None and not visits_all:
            steps = settings.steps
        if eta is None:
            eta = settings.eta if name == settings.sampler else 0.0
        return make_solver(self.schedule, name, steps=steps, eta=eta, spacing=settings.spacing)

    def predictor(self) -> Predictor:
        """Return the network as a predictor of x0, in the model's type."""
        self.trained_settings()
        assert self.denoiser is not None and self.objective is not None and self.schedule is not None
        network = self.denoiser if self.dtype is None else _Autocast(self.denoiser, self.device, self.dtype)
        return predict_x0(network, self.objective, self.schedule)

    def trained_settings(self) -> SamplingSettings:
        """Return the settings; refuse an autoencoder without a diffusion model."""
        if self.denoiser is None or self.settings is None:
            raise UserError(
                f"{self.name} is an autoencoder alone: it encodes videos but cannot sample any; give a diffusion model"
            )
        check_codec(self.codec, self.name)
        if self.schedule is None or self.objective is None:
            raise UserError(f"{self.name} has a denoiser, but no schedule or no objective; give the VideoModel both")
        check_denoiser(self.denoiser)
        return self.settings

    def content(
        self,
        videos: Sequence[int],
        *,
        seed: int,
        label: int | Sequence[int] | None,
        context: Tensor | None,
        guidance: float | None,
    ) -> Content:
        """Return what these videos of a seed show: see `choose_labels`. The context is (1, l, d) for all or (n, l, d)."""
        self.trained_settings()
        assert self.denoiser is not None
        inputs = self.denoiser.inputs
        known: dict[str, Any] = {"classes": inputs.num_labels, "trained": self.trained, "name": self.name}
        labels = choose_labels(label, videos, seed=seed, **known)
        empty = None
        if context is not None:
            check_inputs(["context"], inputs, network=self.name)
            context = check_texts(len(videos), context).to(self.device)
            empty = self._empty_prompt() if self.guidance_or_own(guidance) else None
        return Content(
            label=None if labels is None else torch.tensor(labels, device=self.device),
            context=context,
            empty=empty,
            guides=context is not None or (labels is not None and has_null_class(self.trained)),
        )

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return the text features (n, l, d) of prompts."""
        if self.text_encoder is None:
            raise UserError(f"{self.name} has no text encoder to read a prompt; leave it out or take a text-to-video model")
        return self.text_encoder(list(prompts))

    def _empty_prompt(self) -> Tensor:
        if self.text_encoder is None:
            raise UserError(f"{self.name} has no text encoder to make the empty prompt that guidance needs; give guidance 0")
        if self.trained is not None and self.trained.empty_caption == 0:
            warn_once(f"{self.name} was never trained on the empty caption, which guidance compares with: expect poor videos")
        return self.text_encoder([""])

    def _condition(self, num: int, content: Content) -> Condition:
        """Return the condition of short clips, at the frame rate of the task that samples them."""
        settings, stride = self.trained_settings(), short_stride(self.trained, self.name)
        assert self.denoiser is not None
        inputs = self.denoiser.inputs
        if inputs.fps:
            check_rate(self.trained, self.name, settings.fps)
        cond = Condition(
            fps=None if settings.fps is None else torch.full((num,), float(settings.fps) / stride, device=self.device),
            frame_noise=self._level_without_frames(num, settings),
        )
        return content.given_to(cond, num).taken_by(inputs)

    def _level_without_frames(self, num: int, settings: SamplingSettings) -> Tensor | None:
        """Return a level for networks that embed it: in training they got one for every sample, with given frames or without."""
        assert self.denoiser is not None
        if self.denoiser.inputs.noise_level != "embedding":
            return None
        check_level(settings.condition_noise, self)
        return torch.full((num,), settings.condition_noise, device=self.device)

    def _window_shape(self, num: int, noise: Tensor | None) -> tuple[int, ...]:
        shape = tuple(self.trained_settings().latent_shape)
        require(integer(1), num=num)
        if noise is not None and noise.shape != (num, *shape):
            raise UserError(f"the noise has shape {tuple(noise.shape)}, {num} videos of this model need {(num, *shape)}")
        return shape

    def guidance_or_own(self, guidance: float | None) -> float:
        return self.trained_settings().guidance if guidance is None else guidance


@dataclass(frozen=True)
class _Autocast:
    """A network whose matrix products run in another type; what comes in and out is float32."""

    denoiser: Denoiser
    device: torch.device
    dtype: torch.dtype

    @property
    def inputs(self) -> DenoiserInputs:
        return self.denoiser.inputs

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        with torch.autocast(self.device.type, self.dtype):
            output = self.denoiser(x, t, cond)
        return output.float() if isinstance(output, Tensor) and output.is_floating_point() else output  # which is refused


def auto_batch(elements: int, device: torch.device) -> int:
    """Return how many windows of so many latent elements (twice with guidance) to sample at once.

    On a CPU that is 20,000 elements, because larger batches gain no speed there; on a GPU what fits its free memory at 16 KiB
    an element.
    """
    return fitting(elements, device, bytes_per_unit=CUDA_BYTES, units_on_cpu=CPU_ELEMENTS)


def check_level(level: int, model: VideoModel) -> None:
    """Refuse a noise level of given frames that the model does not know."""
    assert model.schedule is not None and model.denoiser is not None
    levels = min(model.schedule.num_steps, model.denoiser.inputs.num_noise_levels or model.schedule.num_steps)
    if not 0 <= level < levels:
        raise UserError(f"the noise level of given frames is {level}, and {model.name} knows 0 (clean) to {levels - 1}")


def check_finite(latents: Tensor, name: str) -> Tensor:
    """Return sampled latents; refuse NaN and infinity, which would become a video like any other."""
    if not bool(latents.isfinite().all()):
        raise UserError(f"{name} sampled latents that are not finite; try float32, another sampler, or another checkpoint")
    return latents


def to_uint8(video: Tensor) -> np.ndarray:
    """Return (b, 3, t, h, w) in [-1, 1] as (b, t, h, w, 3), rounded."""
    levels = ((video.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()


def _ignore(share: float) -> None:
    """Report nothing."""


def _rows(cond: Condition, rows: slice) -> Condition:
    values = {f.name: getattr(cond, f.name) for f in fields(Condition)}
    return Condition(**{name: value if value is None else value[rows] for name, value in values.items()})
