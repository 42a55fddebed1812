"""A trained model, ready to sample from: network, schedule, objective and codec together (LVDM section 3.1 to 3.3).

Letters: n videos, b videos sampled at once, c channels, t latents or frames, h w; w guidance weight, in the convention
eps = eps_c + w (eps_c - eps_u), so that w = 0 is off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lvdm.diffusion.guidance import guided, predict_x0
from lvdm.diffusion.objectives import Objective
from lvdm.diffusion.schedules import NoiseSchedule
from lvdm.rules import integer, listed, number, one_of, optional, require
from lvdm.sampling.noise import VideoNoise
from lvdm.sampling.samplers import SAMPLERS, OnStep
from lvdm.sampling.solver import Solver, make_solver
from lvdm.sampling.timesteps import SPACINGS
from lvdm.types import ABSENT, Condition, Denoiser, Predictor, TextEncoder, UserError, VideoCodec

SHORT = 0  # first number of a noise stream's stage: what kind of window it is for
CPU_ELEMENTS = 20_000  # latent elements in one batch on a CPU: more fall out of its cache and are slower (measured)
CUDA_BYTES = 16 << 10  # memory that one latent element may need in a network, with room to spare

MOST_ELEMENTS = 2**26  # of one window's latent: a video of 2048 pixels' side has a sixteenth of that
COUNT = integer(1, 10**6)
SETTINGS = {
    "latent_shape": listed(integer(1, 2**16), 4, 4),
    "fps": optional(number(1e-6, 1e6)),
    "key_stride": COUNT,
    "overlap": integer(0, 2**16),
    "sampler": one_of(*SAMPLERS),
    "eta": number(0, 1),
    "steps": COUNT,
    "gap_steps": optional(COUNT),
    "spacing": one_of(*SPACINGS),
    "guidance": number(-1e6, 1e6),
    "condition_noise": integer(0, 10**6),
    "gap_noise": integer(0, 10**6),
    "lead_in": integer(0, 10**6),
}

OnProgress = Callable[[float], None]


@dataclass(frozen=True)
class SamplingSettings:
    """What a model file says of how it was trained and is best sampled from; commands take them as defaults."""

    latent_shape: Sequence[int]  # c, t, h, w of one window
    fps: float | None = None  # frames per second of the training videos
    key_stride: int = 1  # latents from one key of a long video to the next
    overlap: int = 1  # keys that a window of a long video is given from the one before
    sampler: str = "ddim"
    eta: float = 0.0  # randomness of ddim, 0 to 1
    steps: int = 50
    gap_steps: int | None = None  # in the gaps of a long video; None: as many as elsewhere
    spacing: str = "published"  # of the steps: published or trailing
    guidance: float = 0.0  # weight w
    condition_noise: int = 100  # level s of given keys
    gap_noise: int = 100  # level s of given keys when gaps are filled
    lead_in: int = 0  # frames of a long video that are made first and left out

    def __post_init__(self) -> None:
        for name, rule in SETTINGS.items():
            require(rule, **{f"sampling.{name}": getattr(self, name)})
        if np.prod(self.latent_shape, dtype=float) > MOST_ELEMENTS:
            raise UserError(f"sampling.latent_shape is {list(self.latent_shape)}, expected at most {MOST_ELEMENTS:,} elements")
        if self.overlap >= max(2, self.latent_shape[1]):
            raise UserError(
                f"sampling.overlap is {self.overlap}, expected less than the {self.latent_shape[1]} latents of a window"
            )

    @staticmethod
    def read(stored: Mapping[str, Any]) -> SamplingSettings:
        """From a model file; what other versions of lvdm say beside it is left unread."""
        if "latent_shape" not in stored:
            raise UserError("the model file does not say the shape of its latents (sampling.latent_shape: c, t, h, w)")
        known = {f.name for f in fields(SamplingSettings)}
        return SamplingSettings(**{name: value for name, value in stored.items() if name in known})


@dataclass(frozen=True)
class VideoModel:
    """A model in memory.

    Args:
        codec: video <-> normalised latent.
        denoiser, schedule, objective, settings: the diffusion model; all None for an autoencoder alone.
        device: where the networks are.
        dtype: the network runs in this type by autocast; None is float32.
        text_encoder: prompts to context, where the model reads text.
        name: what to call it in messages.
        description: of its model file, if it was loaded from one: how its parts are built, and what they were trained on.
    """

    codec: VideoCodec
    denoiser: Denoiser | None = None
    schedule: NoiseSchedule | None = None
    objective: Objective | None = None
    settings: SamplingSettings | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype | None = None
    text_encoder: TextEncoder | None = None
    name: str = "the model"
    description: Mapping[str, Any] = field(default_factory=dict)

    def sample(self, num: int = 1, **options: Any) -> np.ndarray:
        """Short videos, uint8 (n, t, h, w, 3); the options are those of `sample_latents`."""
        return np.concatenate([to_uint8(self.codec.decode(latent)) for latent in self.sample_latents(num, **options).split(1)])

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
        """Latents (n, c, t, h, w) of the videos first, ..., first + num - 1 of a seed.

        Args:
            steps, sampler, eta, guidance: None takes the model's own; ddpm without steps goes through all times. eta is the
                randomness of ddim, 0 to 1, and the model's own is that of its own sampler.
            batch_size: videos at once; changes nothing but time and memory. None: as many as are useful.
            label: class of all videos, or one for each.
            context: text features (n, l, d), or (1, l, d) for all.
            noise: a given start (n, c, t, h, w) instead of the seed's.
            on_progress: told after every step how many videos' worth of work it was.
        """
        solver = self.solver(sampler=sampler, steps=steps, eta=eta)
        shape = self._window_shape(num, noise)
        cond, uncond = self._conditions(num, label, context, guidance)
        scale = 0.0 if uncond is None else self._guidance(guidance)
        size = batch_size or auto_batch(int(np.prod(shape)) * (1 if scale == 0 else 2), self.device)
        made = []
        for start in range(0, num, size):
            rows = slice(start, min(start + size, num))
            streams = VideoNoise(seed, range(first + rows.start, first + rows.stop), stage=(SHORT,))
            x = (streams((len(streams), *shape)) if noise is None else noise[rows].float()).to(self.device)
            denoise = guided(self.predictor(), _rows(cond, rows), None if uncond is None else _rows(uncond, rows), scale=scale)
            made.append(solver(denoise, x, noise=streams, on_step=_report(on_progress, len(streams) / len(solver.grid))))
        return torch.cat(made)

    def solver(self, *, sampler: str | None = None, steps: int | None = None, eta: float | None = None) -> Solver:
        """With the model's own sampler, steps and eta where none are given."""
        settings = self.trained_settings()
        assert self.schedule is not None
        name = sampler or settings.sampler
        steps = settings.steps if steps is None and name != "ddpm" else steps
        if eta is None:
            eta = settings.eta if name == settings.sampler else 0.0
        return make_solver(self.schedule, name, steps=steps, eta=eta, spacing=settings.spacing)

    def predictor(self) -> Predictor:
        """The network as a predictor of x0, in the model's type."""
        self.trained_settings()
        assert self.denoiser is not None and self.objective is not None and self.schedule is not None
        network = self.denoiser if self.dtype is None else _Autocast(self.denoiser, self.device, self.dtype)
        return predict_x0(network, self.objective, self.schedule)

    def trained_settings(self) -> SamplingSettings:
        """The settings, or a sentence where there is no diffusion model to sample from."""
        if self.denoiser is None or self.settings is None:
            raise UserError(f"{self.name} is an autoencoder alone: it codes videos but cannot make any; give a diffusion model")
        return self.settings

    def _conditions(
        self, num: int, label: int | Sequence[int] | None, context: Tensor | None, guidance: float | None
    ) -> tuple[Condition, Condition | None]:
        """What every video is told, and what the unconditional pass is told where there is anything to tell apart."""
        settings = self.trained_settings()
        cond = Condition(
            label=None if label is None else self._labels(num, label),
            context=None if context is None else self._texts(num, context),
            fps=None if settings.fps is None else torch.full((num,), float(settings.fps), device=self.device),
            frame_noise=self._level_of_nothing(num, settings),
        )
        if label is None and context is None:
            if guidance:
                raise UserError(f"guidance is {guidance}, but without a label or text there is nothing to guide by; leave it out")
            return cond, None
        if context is not None and self._guidance(guidance):
            if self.text_encoder is None:
                raise UserError(f"{self.name} has no text encoder to make the empty prompt that guidance needs; give guidance 0")
            context = self._texts(num, self.text_encoder([""]))
        return cond, replace(cond, label=None if cond.label is None else torch.full_like(cond.label, ABSENT), context=context)

    def _level_of_nothing(self, num: int, settings: SamplingSettings) -> Tensor | None:
        """Networks that learn the level by an embedding were told one in training also where nothing was given."""
        assert self.denoiser is not None
        is_told = self.denoiser.noise_level == "embedding"
        if is_told:
            check_level(settings.condition_noise, self)
        return torch.full((num,), settings.condition_noise, device=self.device) if is_told else None

    def _window_shape(self, num: int, noise: Tensor | None) -> tuple[int, ...]:
        shape = tuple(self.trained_settings().latent_shape)
        if num < 1:
            raise UserError(f"{num} videos were asked for; ask for one or more")
        if noise is not None and noise.shape != (num, *shape):
            raise UserError(f"the noise has shape {tuple(noise.shape)}, {num} videos of this model need {(num, *shape)}")
        return shape

    def _guidance(self, guidance: float | None) -> float:
        return self.trained_settings().guidance if guidance is None else guidance

    def _texts(self, num: int, context: Tensor) -> Tensor:
        if context.ndim != 3 or len(context) not in (1, num):
            raise UserError(f"the context has shape {tuple(context.shape)}; {num} videos need (1, l, d) or ({num}, l, d)")
        return context.to(self.device).expand(num, -1, -1)

    def _labels(self, num: int, label: int | Sequence[int]) -> Tensor:
        labels = torch.as_tensor(label, dtype=torch.long, device=self.device).reshape(-1)
        classes = getattr(self.denoiser, "num_labels", 0)
        if len(labels) not in (1, num):
            raise UserError(f"{len(labels)} labels came for {num} videos; give one, or one for each")
        if not all(0 <= number < classes for number in labels.tolist()):
            known = f"classes 0 to {classes - 1}" if classes else "no classes"
            raise UserError(f"the label is {label}, and {self.name} knows {known}")
        return labels.expand(num).contiguous()


@dataclass(frozen=True)
class _Autocast:
    """A network whose matrix products run in another type; what comes in and out is float32."""

    denoiser: Denoiser
    device: torch.device
    dtype: torch.dtype

    @property
    def noise_level(self) -> str | None:
        return self.denoiser.noise_level

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        with torch.autocast(self.device.type, self.dtype):
            return self.denoiser(x, t, cond).float()


def auto_batch(elements: int, device: torch.device) -> int:
    """How many windows of so many latent elements (twice with guidance) to sample at once.

    On a CPU what makes 20,000 elements, as larger batches gain no speed there; on a GPU what fits its free memory at 16 KiB an
    element.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return max(1, free // (CUDA_BYTES * elements))
    return max(1, CPU_ELEMENTS // elements)


def check_level(level: int, model: VideoModel) -> None:
    """Refuse a noise level of given frames that the model does not know."""
    assert model.schedule is not None
    embedding = getattr(model.denoiser, "label_emb", None)
    levels = model.schedule.num_steps if embedding is None else min(embedding.num_embeddings, model.schedule.num_steps)
    if not 0 <= level < levels:
        raise UserError(f"the noise level of given frames is {level}, and {model.name} knows 0 (clean) to {levels - 1}")


def to_uint8(video: Tensor) -> np.ndarray:
    """(b, 3, t, h, w) in [-1, 1] -> (b, t, h, w, 3), rounded."""
    levels = ((video.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()


def _report(on_progress: OnProgress | None, share: float) -> OnStep | None:
    return None if on_progress is None else lambda step: on_progress(share)


def _rows(cond: Condition, rows: slice) -> Condition:
    values = {f.name: getattr(cond, f.name) for f in fields(Condition)}
    return Condition(**{name: value if value is None else value[rows] for name, value in values.items()})
