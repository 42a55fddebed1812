"""Checks before a run writes its first file: network, data, sampling, checkpoint and cached latents must fit together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lvdm.data import LatentClips, VideoData, VideoFolder
from lvdm.diffusion.masks import NoMask
from lvdm.jobs.evaluate_in_training import check_evaluation
from lvdm.jobs.resume import read_run_checkpoint
from lvdm.models.codec import Codec
from lvdm.rules import integer, require
from lvdm.sampling.pipeline import SamplingSettings
from lvdm.sampling.solver import make_solver
from lvdm.training.autoencoder import AutoencoderTraining
from lvdm.training.diffusion import LatentDiffusion
from lvdm.training.seeding import generator_for
from lvdm.types import TextEncoder, UserError

logger = logging.getLogger(__name__)

Shape = tuple[int, ...]  # (c, t, h, w)
Module = AutoencoderTraining | LatentDiffusion
SEED = integer(0, 2**32 - 1)


def check_run(settings: dict[str, Any], module: Module, clips: Mapping[str, Shape]) -> None:
    """Check what is known without training; `clips` are the known latent shapes of a clip of train and val."""
    if isinstance(module, LatentDiffusion):
        _check_sampling(settings, module, clips)
        for name, clip in clips.items():
            _check_tasks(module, clip, name)
    elif settings["sampling"] is not None:
        raise UserError("`sampling` has no effect on an autoencoder, which makes no videos; leave it out")
    elif settings["previews"]["steps"] is not None:
        raise UserError("previews.steps has no effect on an autoencoder, which samples nothing; leave it out")
    check_evaluation(settings, module)
    require(SEED, **{"model.params.seed": module.seed})
    check_strategy(settings["trainer"], module)
    if module.learning_rate.needs_end and settings["max_minutes"] is None and _is_endless(settings["trainer"]):
        name = type(module.learning_rate).__name__
        raise UserError(f"{name} falls towards the end of training, but none is set; give trainer.max_steps or max_minutes")


def clip_shapes(data: VideoData, module: Module, *, look: bool) -> dict[str, Shape]:
    """Return the latent shape of a clip of train and val.

    Absent are a user's own data sets, and those of cached latents unless `look` allows to read them.
    """
    shapes = {}
    for name, part in (("train", data.train), ("val", data.val)):
        if isinstance(part, VideoFolder):
            shapes[name] = module.codec.latent_shape(part.num_frames, *part.size)
        elif isinstance(module, AutoencoderTraining) and isinstance(part, LatentClips):
            raise UserError(f"an autoencoder trains on videos, and data.params.{name} gives latents; take lvdm.data.VideoFolder")
        elif isinstance(part, LatentClips) and look:
            shapes[name] = part.latent_shape
    return shapes


def check_strategy(trainer: Mapping[str, Any], module: Module) -> None:
    """Refuse precisions and strategies that this module cannot be trained with, such as sharding that would lose weights."""
    strategy, is_scaled = str(trainer.get("strategy", "auto")), str(trainer.get("precision")) in ("16-mixed", "16")
    if is_scaled and isinstance(module, AutoencoderTraining) and module.adversary is not None and module.adversary.second_pass:
        raise UserError(
            f"trainer.precision {trainer['precision']} cannot scale the losses of an adversary with second_pass; take bf16-mixed"
        )
    if strategy == "fsdp":
        if not isinstance(module, LatentDiffusion):
            raise UserError("trainer.strategy fsdp shards a denoiser, and an autoencoder has none; take ddp")
        if is_scaled:
            raise UserError(f"trainer.precision {trainer['precision']} cannot scale sharded gradients; take bf16-mixed")
    elif strategy.lower().startswith(("fsdp", "deepspeed", "model_parallel")):  # Lightning reads FSDP as its own fsdp
        raise UserError(f"trainer.strategy is {strategy}, which is not supported; take ddp, or fsdp for a large denoiser")


def check_pace(trainer: dict[str, Any], batches: int) -> None:
    """Refuse a validation interval that is longer than an epoch of so many training batches."""
    for key in ("max_steps", "val_check_interval"):
        if trainer.get(key) in (0, 0.0):
            raise UserError(f"trainer.{key} is 0, expected 1 or more")
    interval = trainer.get("val_check_interval")
    if isinstance(interval, int) and interval > batches and trainer.get("check_val_every_n_epoch", 1) is not None:
        raise UserError(
            f"trainer.val_check_interval is {interval} batches and an epoch has {batches}; lower it, or count on over epochs "
            "with trainer.check_val_every_n_epoch=null"
        )


def check_cached_latents(data: VideoData, module: Module) -> None:
    """Refuse latents of another autoencoder, or without the deviations that the module samples."""
    for name, part in _parts(data, LatentClips):
        if isinstance(module, LatentDiffusion) and module.sample_posterior != part.std:
            raise UserError(
                f"sample_posterior is {module.sample_posterior} and data.params.{name}.params.std {part.std}; they go together: "
                "set both or neither"
            )
        if part.codec_fingerprint == module.codec.fingerprint_of_version_1():
            words = "the cached latents of %s are of lvdm 0.1, whose fingerprint does not cover the autoencoder's settings; "
            words += "encode again if those were not %s"
            logger.warning(words, name, module.codec.settings)
        else:
            _check_source(f"cached latents of {name}", "autoencoder", part.codec_fingerprint, module.codec, "codec_weights")


def check_labels(data: VideoData, module: Module) -> None:
    """Refuse a network with classes without videos of its classes; of a user's own data set each batch is checked."""
    classes = module.num_labels if isinstance(module, LatentDiffusion) else 0
    if not classes:
        return
    for name, part in _parts(data, LatentClips | VideoFolder):
        labels = part.labels
        if all(label < 0 for label in labels):
            raise UserError(
                f"the denoiser has num_labels {classes}, but no video of {name} has a class; add labels, see docs/data.md, or "
                "leave num_labels out"
            )
        if max(labels) >= classes:
            raise UserError(
                f"the data of {name} has class {max(labels)}, and the denoiser knows 0 to {classes - 1}; "
                f"set num_labels: {max(labels) + 1}"
            )


def check_text(data: VideoData, module: Any) -> None:
    """Refuse a network that reads text without text of its width and text encoder, and text for any other network."""
    reads = isinstance(module, LatentDiffusion) and module.reads_text
    for name, part in _parts(data, LatentClips):
        if part.context and not reads:
            raise UserError(
                f"data.params.{name}.params.context has no effect on a denoiser that reads no text; leave it out, or give it "
                "text_attention: true and a context_dim"
            )
    if not reads:
        return
    for name, part in _parts(data, LatentClips | VideoFolder):
        if not _has_text(part):
            raise UserError(f"the denoiser reads text, but the data of {name} has no captions; add them, see docs/data.md")
    width, wanted = module.empty_context().shape[-1], module.denoiser.inputs.context_dim
    if width != wanted:
        raise UserError(
            f"the text encoder gives {width} numbers a token and the denoiser reads {wanted}; set context_dim: {width}"
        )
    for name, part in _parts(data, LatentClips):
        if part.context:
            found = str(part.text_fingerprint)
            _check_source(f"cached captions of {name}", "text encoder", found, module.text_encoder, "the model's")


def _parts(data: VideoData, kind: Any) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in (("train", data.train), ("val", data.val)) if isinstance(part, kind)]


def _check_source(what: str, network: str, found: str, used: Codec | TextEncoder, of: str) -> None:
    """Refuse cached features that another network computed than the one in use."""
    if found != (fingerprint := used.fingerprint()):
        raise UserError(
            f"the {what} were made by another {network} ({found[:8]}) than {of} ({fingerprint[:8]}); encode the data again, "
            "into another folder"
        )


def _has_text(part: LatentClips | VideoFolder) -> bool:
    if isinstance(part, LatentClips):
        return part.context or part.has_captions
    return any(video.description.caption is not None for video in part.usable.videos)


def check_checkpoint(path: Path, module: Module) -> None:
    """Refuse a checkpoint of another network, optimizer or autoencoder."""
    advice = "resume with the config of that run, or start a run of another name"
    state = read_run_checkpoint(path)
    given, wanted = _shapes(state["state_dict"]), _shapes(module.state_dict())
    differing = sorted(name for name in given.keys() | wanted.keys() if given.get(name) != wanted.get(name))
    if differing:
        raise UserError(
            f"the checkpoint {path} is of another model: {len(differing)} weights differ, first {differing[0]}, "
            f"{given.get(differing[0], 'absent')} there and {wanted.get(differing[0], 'absent')} here; {advice}"
        )
    saved, here = state["optimizer_states"], [optimizer.state_dict() for optimizer in module.build_optimizers()]
    if _group_sizes(saved) != _group_sizes(here):
        raise UserError(f"the checkpoint {path} is of another optimizer than {type(module.optimizer).__name__}; {advice}")
    if isinstance(module, LatentDiffusion):
        codec = {name: tensor for name, tensor in module.state_dict().items() if name.startswith("codec.")}
        if not all(torch.equal(tensor, state["state_dict"][name]) for name, tensor in codec.items()):
            raise UserError(f"the checkpoint {path} was trained on latents of another autoencoder than codec_weights; {advice}")


def _group_sizes(states: Sequence[dict[str, Any]]) -> list[list[int]]:
    return [[len(group["params"]) for group in state["param_groups"]] for state in states]


def _is_endless(trainer: dict[str, Any]) -> bool:
    return trainer.get("max_steps", -1) == -1 and trainer.get("max_epochs", -1) in (None, -1)


def _check_sampling(settings: dict[str, Any], module: LatentDiffusion, clips: Mapping[str, Shape]) -> None:
    if settings["sampling"] is None:
        raise UserError("a diffusion stage needs `sampling`, which its model file carries; give at least sampling.latent_shape")
    sampling = SamplingSettings(**settings["sampling"])
    shape, window = tuple(sampling.latent_shape), (module.codec.latent_channels, module.num_latents)
    if shape[:2] != window:
        raise UserError(
            f"sampling.latent_shape {shape} does not fit the model, which has {window[0]} channels and windows of {window[1]} "
            "latents; write it as [channels, latents, height, width]"
        )
    for name, clip in clips.items():
        if shape[2:] != clip[2:]:
            raise UserError(
                f"sampling.latent_shape {shape} does not fit the data of {name}, whose latents are {clip[2]} x {clip[3]}; "
                "train at the size that is sampled"
            )
    for name in ("steps", "gap_steps"):
        steps = getattr(sampling, name)
        if steps is not None:
            grid = {"steps": steps, "spacing": sampling.spacing}
            with _about(f"sampling.{name}"):
                make_solver(module.schedule, sampling.sampler, eta=sampling.eta, **grid)
    for name in ("condition_noise", "gap_noise"):
        level, last = getattr(sampling, name), module.schedule.num_steps - 1
        if not 0 <= level <= last:
            raise UserError(f"sampling.{name} is {level}, expected a time of the schedule, 0 to {last}")
    gives = any(not isinstance(task.mask, NoMask) for task in module.tasks.values())
    if gives and max(sampling.condition_noise, sampling.gap_noise) >= module.given.max_level:
        levels = f"{sampling.condition_noise} and gap_noise {sampling.gap_noise}"
        logger.warning("sampling.condition_noise %s: levels are trained below %d only", levels, module.given.max_level)
    if sampling.overlap < 1:
        raise UserError(f"sampling.overlap is {sampling.overlap}, expected at least 1")


def _check_tasks(module: LatentDiffusion, clip: Shape, data: str) -> None:
    """Draw once from zeros, so that windows and masks that do not fit raise their errors."""
    zeros = torch.zeros(1, *clip)
    batch = {"latent": zeros, "latent_std": zeros, "index": torch.zeros(1, dtype=torch.long), "fps": torch.ones(1)}
    batch |= {"context": torch.zeros(1, 1, 1), "label": torch.zeros(1, dtype=torch.long)}
    for name, task in module.tasks.items():
        with _about(f"the task {name} on the data of {data}"):
            module.draw(batch, [task], generator_for(0))


@contextmanager
def _about(what: str) -> Iterator[None]:
    """Say in a user's error what it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def _shapes(tensors: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
