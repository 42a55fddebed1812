"""`scripts/benchmark.py CONFIG...`: how fast a training config runs here, stage by stage, on random weights and random batches.

No trained weights are needed, and no data but videos for `--stage data` (data_speed.py) and `cache` (cache_speed.py). Each
figure stands beside the machine's own rate of matrix products, measured in the same run and type, so that machines and layouts
can be compared. FLOP are counted on the stage's own call: those of training include the optimizer's products and what
checkpointing computes again.
Letters: b batch, c channels, t frames or latents, h w.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lvdm.cli import command
from lvdm.cli.cache_speed import measure_cache
from lvdm.cli.data_speed import measure_data
from lvdm.cli.train import compile_network, read
from lvdm.config import instantiate, to_dict
from lvdm.data import LatentClips, VideoData, VideoFolder
from lvdm.jobs.benchmark import speed
from lvdm.jobs.benchmark.random_text import RandomText
from lvdm.jobs.benchmark.speed import Call, Figures, Machine, table
from lvdm.jobs.checks import Module, check_run, clip_shapes
from lvdm.processes import as_device
from lvdm.sampling.pipeline import SamplingSettings, VideoModel
from lvdm.training.diffusion import LatentDiffusion
from lvdm.types import Batch, UserError

PRECISIONS = {"32": "float32", "32-true": "float32", "bf16": "bfloat16", "bf16-mixed": "bfloat16"}  # Lightning's names and ours
READING = ("data", "cache")  # stages that read videos
WARMUP = 2  # steps
FPS = 8  # that the networks are told; no speed depends on it


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Measure how fast a training config runs on this machine, on random weights and random batches. Two stages read the "
        "config's videos: data measures reading them; cache encodes them, all, and measures training steps fed from the files in "
        "turn with steps fed from their latents. The weights' average, validation and checkpoints are not in the figures.",
        example="scripts/benchmark.py configs/lvdm/joint_toy.yaml --stage train --steps 20 --json joint.json",
    )
    parse.add_argument("config", nargs="+", help="YAML files of training, merged left to right, then key=value overrides")
    parse.add_argument(
        "--stage",
        choices=(*STAGES, *READING, "all"),
        default="all",
        help="what to measure (default: all that the config has without data); data and cache: one turn of warming up, then four",
    )
    parse.add_argument("--published", action="store_true", help="of data: in turn with the published data sets' way of reading")
    parse.add_argument("--steps", type=int, default=10, help="steps measured, in each turn of data and cache (default 10)")
    parse.add_argument("--warmup", type=int, default=WARMUP, help=f"steps before them that are not (default {WARMUP})")
    parse.add_argument("--batch-size", type=int, metavar="B", help="videos at once (default: data.params.batch_size)")
    parse.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parse.add_argument("--precision", choices=("float32", "bfloat16"), help="bfloat16 by autocast (default: trainer.precision)")
    parse.add_argument("--compile", action="store_true", help="torch.compile what training compiles; needs a warm-up")
    command.add_allow_module(parse)
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), benchmark, argv)


def benchmark(args: argparse.Namespace) -> command.Report:
    config = read(args.config, args.allow_module)
    check_numbers(args)
    if args.stage == "data":
        data = instantiate(config.data, allow=args.allow_module)
        batch_size = args.batch_size or data.batch_size
        return {"config": args.config, **measure_data(data, batches=args.steps, batch_size=batch_size, published=args.published)}
    settings = to_dict(config)
    torch.manual_seed(settings["seed"])
    module = instantiate(config.model, allow=args.allow_module)
    data = instantiate(config.data, allow=args.allow_module)
    check_run(settings, module, clip_shapes(data, module, look=False))
    subject = Subject(
        module=module,
        settings=settings,
        shapes=shapes_of(module, data.train, settings["sampling"]),
        batch_size=args.batch_size or data.batch_size,
        device=as_device(args.device),
        precision=args.precision or precision_of(settings["trainer"]),
    )
    names, compiled = stages_of(module, "train" if args.stage == "cache" else args.stage), []
    module.to(subject.device)
    if getattr(module, "reads_text", False):
        module.text_encoder = RandomText(module.denoiser.context_dim).to(subject.device)
    if args.compile or settings["compile"]:
        compiled = compiled_stages(module, names, asked=args.compile)
        compile_network(module)
    device = torch.cuda.get_device_name(subject.device) if subject.device.type == "cuda" else str(subject.device)
    facts = {"device": device, "precision": subject.precision, "batch_size": subject.batch_size, "compiled": compiled}
    if args.stage == "cache":
        print(f"{device}, {subject.precision}, batch {subject.batch_size}")
        return {"config": args.config, **facts, **measure_training(subject, data, steps=args.steps)}
    figures = {name: measure_stage(name, subject, args, is_compiled=name in compiled) for name in names}
    print(table(figures, f"{device}, {subject.precision}, batch {subject.batch_size}, median of {args.steps} steps (quartiles)"))
    facts |= {"matmul_side": speed.MATMUL_SIDE, "steps": args.steps, "warmup": args.warmup}
    return {"config": args.config, **facts, "stages": {name: asdict(each) for name, each in figures.items()}}


def check_numbers(args: argparse.Namespace) -> None:
    if args.steps < 1 or args.warmup < 0 or (args.batch_size is not None and args.batch_size < 1):
        raise UserError(f"--steps {args.steps}, --warmup {args.warmup}, --batch-size {args.batch_size}: at least 1, 0 and 1")
    if args.stage in READING and args.warmup != WARMUP:
        raise UserError(f"--warmup has no effect on --stage {args.stage}, whose first turn does not count; leave it out")
    if args.published and args.stage != "data":
        raise UserError(f"--published has no effect on --stage {args.stage}; give --stage data or leave it out")
    if args.stage == "data" and (args.compile or args.precision or args.device != "auto"):
        raise UserError("--compile, --precision and --device have no effect on --stage data, which reads; leave them out")
    if args.compile and args.warmup < 1:
        raise UserError("--compile with --warmup 0 would measure the compiler; give a warm-up of 1 or more")


def precision_of(trainer: dict[str, Any]) -> str:
    """What training computes in, where it is one that is measured here."""
    said = str(trainer.get("precision") or 32)
    if said not in PRECISIONS:
        raise UserError(f"trainer.precision is {said}, which is not measured here; give --precision float32 or bfloat16")
    return PRECISIONS[said]


def stages_of(module: Module, stage: str) -> list[str]:
    """Those that this config has, the light ones first: a CPU knows the largest memory so far and no other."""
    has = [name for name in STAGES if name != "sample" or isinstance(module, LatentDiffusion)]
    if stage not in (*has, "all"):
        raise UserError(f"this config trains an autoencoder, which has no stage {stage}; give one of {', '.join(has)} or all")
    return has if stage == "all" else [stage]


def compiled_stages(module: Module, names: Sequence[str], *, asked: bool) -> list[str]:
    """A diffusion stage compiles its denoiser and not the autoencoder that it was given."""
    compiled = [name for name in names if not isinstance(module, LatentDiffusion) or name in ("train", "sample")]
    if asked and not compiled:
        raise UserError(f"--compile has no effect on {names[0]}: training of a denoiser compiles that alone; leave it out")
    return compiled


# What is measured ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shapes:
    """Of one sample, without the batch."""

    key: str  # what a training batch holds: video or latent
    sample: Sequence[int]  # its shape there
    video: Sequence[int]  # (3, t, h, w) that is encoded
    latent: Sequence[int]  # (c, t, h, w) that is decoded


def shapes_of(module: Module, train: object, sampling: dict[str, Any] | None) -> Shapes:
    """From the settings alone: nothing is read from the disk. Cached latents are coded at the window that is sampled."""
    codec = module.codec
    if isinstance(train, VideoFolder):
        video = (3, train.num_frames, *train.size)
        return Shapes("video", video, video, sampling["latent_shape"] if sampling else codec.latent_shape(*video[1:]))
    if isinstance(train, LatentClips) and sampling:
        c, t, h, w = sampling["latent_shape"]
        video = (3, t * codec.temporal_factor, h * codec.spatial_factor, w * codec.spatial_factor)
        return Shapes("latent", (c, train.num_latents, h, w), video, (c, t, h, w))
    raise UserError(
        f"data.params.train is {type(train).__name__}, whose shapes are not known here; measure with lvdm.data.VideoFolder or "
        "LatentClips of the same size"
    )


@dataclass(frozen=True)
class Subject:
    """A config built, on its device, with what its batches look like."""

    module: Module
    settings: dict[str, Any]
    shapes: Shapes
    batch_size: int
    device: torch.device
    precision: str  # float32 or bfloat16

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.precision)

    def cast(self) -> AbstractContextManager[object]:
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def random(self, shape: Sequence[int]) -> Tensor:
        """A batch in [-1, 1]."""
        return torch.rand(self.batch_size, *shape, device=self.device) * 2 - 1

    def batch(self) -> Batch:
        numbers = torch.arange(self.batch_size, device=self.device)
        batch = {self.shapes.key: self.random(self.shapes.sample), "index": numbers, "fps": torch.full_like(numbers, FPS).float()}
        classes = getattr(getattr(self.module, "denoiser", None), "num_labels", 0)
        batch |= {"label": numbers % classes} if classes else {}
        return batch if (context := self.context()) is None else {**batch, "context": context}

    def context(self) -> Tensor | None:
        """Of a network that reads text."""
        return self.module.text_encoder([""] * self.batch_size) if getattr(self.module, "reads_text", False) else None


def encoding(subject: Subject) -> Call:
    """Videos to latents, by the codec."""
    video = subject.random(subject.shapes.video)

    def encode() -> Tensor:
        with subject.cast():
            return subject.module.codec.encode(video)

    return encode


def decoding(subject: Subject) -> Call:
    """Latents to videos, by the codec, whole."""
    latent = subject.random(subject.shapes.latent)

    def decode() -> Tensor:
        with subject.cast():
            return subject.module.codec.decode(latent)

    return decode


def sampling(subject: Subject) -> Call:
    """A batch of latents from noise, all of the sampler's steps, as sample_short makes it."""
    module, settings = subject.module, SamplingSettings(**subject.settings["sampling"])
    dtype = None if subject.dtype == torch.float32 else subject.dtype
    model = VideoModel(
        module.codec, module.denoiser, module.schedule, module.objective, settings, subject.device, dtype, module.text_encoder
    )
    context = subject.context()
    return lambda: model.sample_latents(subject.batch_size, batch_size=subject.batch_size, context=context)


def training(subject: Subject) -> Call:
    """The same batch again and again."""
    batch, step = subject.batch(), stepping(subject)
    return lambda: step(batch)


def stepping(subject: Subject) -> Callable[[Batch], None]:
    """Forward, backward, clip and optimizer step of the module's own training step."""
    module, trainer = subject.module, subject.settings["trainer"]
    module.setup("fit")
    optimizers = module.build_optimizers()
    limit, is_by_value = trainer.get("gradient_clip_val"), trainer.get("gradient_clip_algorithm") == "value"
    clip = torch.nn.utils.clip_grad_value_ if is_by_value else torch.nn.utils.clip_grad_norm_

    def step(batch: Batch) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        for loss in losses(subject, batch):
            loss.backward()
        for optimizer in optimizers:
            if limit:
                clip([parameter for group in optimizer.param_groups for parameter in group["params"]], limit)
            optimizer.step()

    return step


def losses(subject: Subject, batch: Batch) -> Iterator[Tensor]:
    """One after the other, each to be followed by its backward pass, which has autocast around it where Lightning has."""
    module = subject.module
    if module.automatic_optimization:
        with subject.cast():
            loss = module.training_step(batch, 0)
        yield loss
        return
    module.adversary.start_step = 0  # with all that is trained in the end
    with subject.cast():
        yield from module.losses_in_turn(batch, 0)


STAGES: dict[str, Callable[[Subject], Call]] = {"encode": encoding, "decode": decoding, "sample": sampling, "train": training}


# Measuring -----------------------------------------------------------------------------------------------------------------


def measure_stage(name: str, subject: Subject, args: argparse.Namespace, *, is_compiled: bool) -> Figures:
    subject.module.train(name == "train")
    machine = Machine(subject.device, subject.dtype)
    counts = {"videos": subject.batch_size, "steps": args.steps, "warmup": args.warmup}
    with quiet(), enough_memory(name, subject):
        return speed.measure(STAGES[name](subject), machine, name=name, **counts, is_compiled=is_compiled)


def measure_training(subject: Subject, data: VideoData, *, steps: int) -> dict[str, Any]:
    """From videos and from their latents."""
    subject.module.train()
    with quiet(), enough_memory("train", subject):
        return measure_cache(data, subject.module, stepping(subject), subject.device, steps=steps, batch_size=subject.batch_size)


@contextmanager
def quiet() -> Iterator[None]:
    """A training step logs to a trainer, and here is none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*reference is not registered.*")
        yield


@contextmanager
def enough_memory(name: str, subject: Subject) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{name} at batch {subject.batch_size} does not fit the GPU's memory; lower --batch-size, or set checkpointing: true"
        ) from error
