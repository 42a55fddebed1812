"""`benchmark_stages`: how fast a training config runs here, stage by stage, on random weights and random batches.

It needs no trained weights and no data. The machine's own rate of matrix products is measured in the same run and type, so that
machines and layouts can be compared. FLOP are counted on the stage's own call: those of training include the optimizer's
products and what checkpointing computes again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lvdm.jobs.benchmark import speed
from lvdm.jobs.benchmark.speed import Call, Figures, Machine
from lvdm.jobs.benchmark.subject import BenchmarkSettings, Subject, build_subject, compile_subject
from lvdm.jobs.settings import Config, Overrides
from lvdm.training.diffusion import LatentDiffusion
from lvdm.types import UserError


@dataclass(frozen=True)
class StageSpeeds:
    """The figures of each stage, with what they were measured on."""

    device: str
    precision: str
    batch_size: int
    compiled: list[str]  # stages
    steps: int
    warmup: int
    matmul_side: int  # of the square matrices that the machine's rate is measured on
    stages: dict[str, Figures]


def benchmark_stages(
    config: Config,
    overrides: Overrides = None,
    *,
    stage: str = "all",
    settings: BenchmarkSettings = BenchmarkSettings(),  # noqa: B008 (frozen)
    allow: Sequence[str] = (),
) -> StageSpeeds:
    """Measure one stage of a training config (encode, decode, sample, train), or all that it has."""
    subject, _ = build_subject(config, overrides, settings, allow=allow)
    names = _stages_of(subject, stage)
    compiled = compile_subject(subject, names, requested=settings.compile)
    figures = {name: _measure(name, subject, settings, is_compiled=name in compiled) for name in names}
    counts = (settings.steps, settings.warmup, speed.MATMUL_SIDE)
    return StageSpeeds(subject.device_name, subject.precision, subject.batch_size, compiled, *counts, figures)


def _stages_of(subject: Subject, stage: str) -> list[str]:
    """Return the stages to measure, small ones first: a CPU tells the largest memory so far and no other."""
    has = [name for name in STAGES if name != "sample" or isinstance(subject.module, LatentDiffusion)]
    if stage not in (*has, "all"):
        raise UserError(f"this config trains an autoencoder, which has no stage {stage}; give one of {', '.join(has)} or all")
    return has if stage == "all" else [stage]


def encoding(subject: Subject) -> Call:
    """Encode videos to latents."""
    video = subject.random(subject.shapes.video)

    def encode() -> Tensor:
        with subject.cast():
            return subject.module.codec.encode(video)

    return encode


def decoding(subject: Subject) -> Call:
    """Decode latents to videos, whole."""
    latent = subject.random(subject.shapes.latent)

    def decode() -> Tensor:
        with subject.cast():
            return subject.module.codec.decode(latent)

    return decode


def sampling(subject: Subject) -> Call:
    """Sample a batch of latents from noise with all of the sampler's steps, as sample_short does."""
    model, context = subject.video_model(), subject.context()
    return lambda: model.sample_latents(subject.batch_size, batch_size=subject.batch_size, context=context)


def training(subject: Subject) -> Call:
    """Train on the same batch again and again."""
    batch, step = subject.batch(), subject.stepping()
    return lambda: step(batch)


STAGES: dict[str, Callable[[Subject], Call]] = {"encode": encoding, "decode": decoding, "sample": sampling, "train": training}


def _measure(name: str, subject: Subject, settings: BenchmarkSettings, *, is_compiled: bool) -> Figures:
    subject.module.train(name == "train")
    machine = Machine(subject.device, subject.dtype)
    counts = {"videos": subject.batch_size, "steps": settings.steps, "warmup": settings.warmup}
    with measured_alone(name, subject):
        return speed.measure(STAGES[name](subject), machine, name=name, **counts, is_compiled=is_compiled)


@contextmanager
def measured_alone(name: str, subject: Subject) -> Iterator[None]:
    """Run a stage without a trainer, and say in words if it does not fit the GPU's memory."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*reference is not registered.*")  # a training step logs to a trainer
        try:
            yield
        except torch.OutOfMemoryError as error:
            advice = "lower the batch size, or set checkpointing: true"
            raise UserError(f"{name} at batch {subject.batch_size} does not fit the GPU's memory; {advice}") from error
