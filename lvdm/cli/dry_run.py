"""`--dry-run`: everything built without weights, and what training it would take, printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from lvdm.config import instantiate, to_dict
from lvdm.data import VideoData, VideoFolder
from lvdm.jobs.checks import check_run, clip_shapes
from lvdm.jobs.memory import training_gib
from lvdm.types import UserError


def describe(config: DictConfig, *, allow: list[str]) -> dict[str, Any]:
    """Builds the module on the meta device and the data set's description; nothing is read from disk."""
    with torch.device("meta"):
        module = instantiate(config.model, allow=allow)
    data = instantiate(config.data, allow=allow)
    settings = to_dict(config)
    check_run(settings, module, clip_shapes(data, module, look=False))
    network = getattr(module, "denoiser", None) or module.codec.autoencoder
    processes = num_processes(settings["trainer"])
    accumulation = settings["trainer"].get("accumulate_grad_batches") or 1
    trained = count(network)
    report = {
        "trained network": type(network).__name__,
        "trained parameters": trained,
        "autoencoder parameters": count(module.codec.autoencoder),
        "latent shape": latent_shape(module, settings),
        "effective batch": data.batch_size * processes * accumulation,
        "learning rate": module.optimizer.lr,
    }
    if (shape := sample_shape(module, data, settings)) is not None:
        is_bf16 = "16" in str(settings["trainer"].get("precision"))  # float16 takes as much
        sizes = {"batch_size": data.batch_size, "is_bf16": is_bf16, "is_averaged": settings["average"] != 0}
        in_parts = ", weights whole" if settings["trainer"].get("strategy") == "fsdp" else ""
        try:
            gib = round(training_gib(module, shape, **sizes), 1)
        except RuntimeError as error:  # the step is run on tensors without content
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"a training step of this config does not run ({reason}); make the sizes of networks and data fit"
            ) from error
        report[f"memory of a training step on a GPU (GiB, estimated{in_parts})"] = gib
    width = max(map(len, report))
    for name, value in report.items():
        print(f"{name:<{width}}  {value:,}" if isinstance(value, int) else f"{name:<{width}}  {value}")
    return {"dry_run": report}


def sample_shape(module: nn.Module, data: VideoData, settings: dict[str, Any]) -> Sequence[int] | None:
    """Of what goes through the trained network; None for a data set of your own, whose shapes only it knows."""
    if settings.get("sampling") is not None:
        return settings["sampling"]["latent_shape"]
    return (3, data.train.num_frames, *data.train.size) if isinstance(data.train, VideoFolder) else None


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def num_processes(trainer: dict[str, Any]) -> int:
    """Devices times nodes, where the config says a number; `auto` counts as what this machine has."""
    devices, here = trainer.get("devices", "auto"), torch.cuda.device_count() or 1
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    number = here if devices in ("auto", "-1", -1) else len(devices) if isinstance(devices, list) else int(devices)
    return number * int(trainer.get("num_nodes", 1))


def latent_shape(module: nn.Module, settings: dict[str, Any]) -> str:
    """Of one training window."""
    sampling = settings.get("sampling")
    if sampling is None:
        codec = module.codec
        alone = " after the first" if codec.first_frame_alone else ""
        frames = f"1/{codec.temporal_factor} of the frames{alone}"
        return f"{codec.latent_channels} channels; {frames}, 1/{codec.spatial_factor} of the sides"
    return " x ".join(map(str, sampling["latent_shape"]))
