"""The model of a config, on random weights and random batches, as the stages of a benchmark use it.

Letters: b batch, c channels, t frames or latents, h w.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lvdm.batching import Batches
from lvdm.config import instantiate, to_dict
from lvdm.data import LatentClips, VideoData, VideoFolder
from lvdm.jobs.benchmark.random_text import RandomText
from lvdm.jobs.checks import Module, check_run, clip_shapes
from lvdm.jobs.run_config import read_run_config
from lvdm.jobs.settings import Config, Overrides
from lvdm.jobs.trainer import compile_network
from lvdm.processes import as_device
from lvdm.sampling.pipeline import SamplingSettings, VideoModel
from lvdm.training.diffusion import LatentDiffusion
from lvdm.types import Batch, UserError

PRECISIONS = {"32": "float32", "32-true": "float32", "bf16": "bfloat16", "bf16-mixed": "bfloat16"}  # Lightning's names and ours
FPS = 8  # of every video; no speed depends on it
WARMUP = 2  # steps


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of a benchmark."""

    steps: int = 10  # measured, in each turn if reading is measured
    warmup: int = WARMUP  # steps before them; reading has a first turn instead
    batch_size: int | None = None  # None: data.params.batch_size
    device: str = "auto"
    precision: str | None = None  # float32 or bfloat16, which is autocast; None: trainer.precision
    compile: bool = False  # torch.compile what training compiles; a config with compile: true does so anyway

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup < 0 or (self.batch_size is not None and self.batch_size < 1):
            raise UserError(f"steps {self.steps}, warmup {self.warmup}, batch_size {self.batch_size}: at least 1, 0 and 1")
        if self.compile and self.warmup < 1:
            raise UserError("compile with warmup 0 would measure the compiler; give a warmup of 1 or more")


@dataclass(frozen=True)
class Shapes:
    """The shapes of one sample, without the batch."""

    key: str  # what a training batch holds: video or latent
    sample: Sequence[int]  # its shape there
    video: Sequence[int]  # (3, t, h, w) that is encoded
    latent: Sequence[int]  # (c, t, h, w) that is decoded


def shapes_of(module: Module, train: object, sampling: dict[str, Any] | None) -> Shapes:
    """Return the shapes that the settings give, without reading data. Cached latents are coded at the sampled window."""
    codec = module.codec
    if isinstance(train, VideoFolder):
        video = (3, train.num_frames, *train.size)
        return Shapes("video", video, video, sampling["latent_shape"] if sampling else codec.latent_shape(*video[1:]))
    if isinstance(train, LatentClips) and sampling:
        c, t, h, w = sampling["latent_shape"]
        video = (3, codec.frames_of(t), h * codec.spatial_factor, w * codec.spatial_factor)
        return Shapes("latent", (c, train.num_latents, h, w), video, (c, t, h, w))
    raise UserError(
        f"data.params.train is {type(train).__name__}, whose shapes are not known here; measure with lvdm.data.VideoFolder or "
        "LatentClips of the same size"
    )


@dataclass(frozen=True)
class Subject:
    """A config that is built, on its device, with the shapes of its batches."""

    module: Any  # an AutoencoderTraining or a LatentDiffusion
    settings: dict[str, Any]
    shapes: Shapes
    batch_size: int
    device: torch.device
    precision: str  # float32 or bfloat16

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.precision)

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    def cast(self) -> AbstractContextManager[object]:
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def random(self, shape: Sequence[int]) -> Tensor:
        """Return a random batch in [-1, 1]."""
        return torch.rand(self.batch_size, *shape, device=self.device) * 2 - 1

    def batch(self) -> Batch:
        numbers = torch.arange(self.batch_size, device=self.device)
        batch = {self.shapes.key: self.random(self.shapes.sample), "index": numbers, "fps": torch.full_like(numbers, FPS).float()}
        classes = self.module.denoiser.inputs.num_labels if isinstance(self.module, LatentDiffusion) else 0
        batch |= {"label": numbers % classes} if classes else {}
        return batch if (context := self.context()) is None else {**batch, "context": context}

    def context(self) -> Tensor | None:
        """Return text features for a network that reads text."""
        is_read = isinstance(self.module, LatentDiffusion) and self.module.reads_text
        return self.module.text_encoder([""] * self.batch_size) if is_read else None

    def video_model(self) -> VideoModel:
        module, settings = self.module, SamplingSettings(**self.settings["sampling"])
        dtype = None if self.dtype == torch.float32 else self.dtype
        parts = (module.codec, module.denoiser, module.schedule, module.objective)
        batches = Batches(shrinks=False)  # the batch is what is measured
        return VideoModel(*parts, settings, self.device, dtype, module.text_encoder, batches=batches)

    def stepping(self) -> Callable[[Batch], None]:
        """Return the module's own training step: forward, backward, clipping and optimizer step."""
        module, trainer = self.module, self.settings["trainer"]
        module.setup("fit")
        optimizers = module.build_optimizers()
        limit, is_by_value = trainer.get("gradient_clip_val"), trainer.get("gradient_clip_algorithm") == "value"
        clip = torch.nn.utils.clip_grad_value_ if is_by_value else torch.nn.utils.clip_grad_norm_

        def step(batch: Batch) -> None:
            for optimizer in optimizers:
                optimizer.zero_grad()
            for loss in self._losses(batch):
                loss.backward()
            for optimizer in optimizers:
                if limit:
                    clip([parameter for group in optimizer.param_groups for parameter in group["params"]], limit)
                optimizer.step()

        return step

    def _losses(self, batch: Batch) -> Iterator[Tensor]:
        """Yield each loss, to be followed by its backward pass, under autocast where Lightning has it."""
        module = self.module
        if module.automatic_optimization:
            with self.cast():
                loss = module.training_step(batch, 0)
            yield loss
            return
        module.adversary.start_step = 0  # with all that is trained in the end
        with self.cast():
            yield from module.alternating_losses(batch, 0)


def build_subject(
    config: Config, overrides: Overrides, benchmark: BenchmarkSettings, *, allow: Sequence[str]
) -> tuple[Subject, VideoData]:
    """Build the model of a training config on its device, and its data."""
    settings = to_dict(read_run_config(config, overrides, allow=allow))
    torch.manual_seed(settings["seed"])
    module = instantiate(settings["model"], allow=allow)
    data = instantiate(settings["data"], allow=allow)
    check_run(settings, module, clip_shapes(data, module, look=False))
    subject = Subject(
        module=module,
        settings=settings,
        shapes=shapes_of(module, data.train, settings["sampling"]),
        batch_size=benchmark.batch_size or data.batch_size,
        device=as_device(benchmark.device),
        precision=benchmark.precision or _precision_of(settings["trainer"]),
    )
    module.to(subject.device)
    if isinstance(module, LatentDiffusion) and module.reads_text:
        module.text_encoder = RandomText(module.denoiser.inputs.context_dim).to(subject.device)
    return subject, data


def compile_subject(subject: Subject, stages: Sequence[str], *, requested: bool) -> list[str]:
    """Compile what training compiles, if requested here or by the config; return the stages that run compiled."""
    if not (requested or subject.settings["compile"]):
        return []
    is_diffusion = isinstance(subject.module, LatentDiffusion)  # compiles its denoiser, not the autoencoder
    compiled = [name for name in stages if not is_diffusion or name in ("train", "sample")]
    if requested and not compiled:
        raise UserError(f"compile has no effect on {stages[0]}: training of a denoiser compiles that alone; leave it out")
    compile_network(subject.module)
    return compiled


def _precision_of(trainer: dict[str, Any]) -> str:
    given = str(trainer.get("precision") or 32)
    if given not in PRECISIONS:
        raise UserError(f"trainer.precision is {given}, which is not measured here; give precision float32 or bfloat16")
    return PRECISIONS[given]
