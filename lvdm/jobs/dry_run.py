"""`dry_run`: build a training config without weights, and say what training it would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lvdm.config import instantiate, to_dict
from lvdm.data import VideoData, VideoFolder
from lvdm.jobs.checks import Module, check_run, clip_shapes
from lvdm.jobs.memory import training_gib
from lvdm.jobs.run_config import read_run_config
from lvdm.jobs.settings import Config, Overrides
from lvdm.jobs.trainer import num_processes
from lvdm.types import UserError, first_line


@dataclass(frozen=True)
class DryRun:
    """Sizes of a training run that was built and not started."""

    network: str
    trained_parameters: int
    autoencoder_parameters: int
    latent_shape: str  # of one training window
    effective_batch: int  # samples a step, of all processes
    learning_rate: float
    memory_gib: float | None  # of a training step on a GPU, estimated; None for a data set whose shapes are unknown
    is_sharded: bool  # the weights are divided over the processes, which the memory does not account for

    def rows(self) -> dict[str, Any]:
        """Return each figure under its words."""
        rows = {
            "trained network": self.network,
            "trained parameters": self.trained_parameters,
            "autoencoder parameters": self.autoencoder_parameters,
            "latent shape": self.latent_shape,
            "effective batch": self.effective_batch,
            "learning rate": self.learning_rate,
        }
        whole = ", weights whole" if self.is_sharded else ""
        memory = f"memory of a training step on a GPU (GiB, estimated{whole})"
        return rows if self.memory_gib is None else {**rows, memory: self.memory_gib}


def dry_run(config: Config, overrides: Overrides = None, *, allow: Sequence[str] = ()) -> DryRun:
    """Build everything on the meta device and check it, without reading data or weights; the arguments are those of `train`."""
    run = read_run_config(config, overrides, allow=allow)
    with torch.device("meta"):
        module = instantiate(run.model, allow=allow)
    data = instantiate(run.data, allow=allow)
    settings = to_dict(run)
    check_run(settings, module, clip_shapes(data, module, look=False))
    network = getattr(module, "denoiser", None) or module.codec.autoencoder
    accumulation = settings["trainer"].get("accumulate_grad_batches") or 1
    return DryRun(
        network=type(network).__name__,
        trained_parameters=_count(network),
        autoencoder_parameters=_count(module.codec.autoencoder),
        latent_shape=_latent_shape(module, settings),
        effective_batch=data.batch_size * num_processes(settings["trainer"]) * accumulation,
        learning_rate=module.optimizer.lr,
        memory_gib=_memory(module, data, settings),
        is_sharded=settings["trainer"].get("strategy") == "fsdp",
    )


def _memory(module: Module, data: VideoData, settings: dict[str, Any]) -> float | None:
    if settings["sampling"] is not None:
        shape: Sequence[int] = settings["sampling"]["latent_shape"]
    elif isinstance(data.train, VideoFolder):
        shape = (3, data.train.num_frames, *data.train.size)
    else:
        return None
    is_bf16 = "16" in str(settings["trainer"].get("precision"))  # float16 takes as much
    sizes = {"batch_size": data.batch_size, "is_bf16": is_bf16, "is_averaged": settings["average"] != 0}
    try:
        return round(training_gib(module, shape, **sizes), 1)
    except RuntimeError as error:  # the step runs on tensors without content
        why = f"a training step of this config does not run ({first_line(error)})"
        raise UserError(f"{why}; make the sizes of networks and data fit") from error


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _latent_shape(module: Module, settings: dict[str, Any]) -> str:
    if settings["sampling"] is not None:
        return " x ".join(map(str, settings["sampling"]["latent_shape"]))
    codec = module.codec
    frames = f"1/{codec.temporal_factor} of the frames{' after the first' if codec.first_frame_alone else ''}"
    return f"{codec.latent_channels} channels; {frames}, 1/{codec.spatial_factor} of the sides"
