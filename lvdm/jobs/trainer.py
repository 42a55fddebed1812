"""The trainer of a run: Lightning's, with our callbacks, loggers and plugins."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ProgressBar, TQDMProgressBar
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lvdm.checkpoints.model_file import read_info, save_model
from lvdm.data import VideoData
from lvdm.jobs.checks import Module
from lvdm.jobs.evaluate_in_training import EvaluateInTraining, Planned
from lvdm.jobs.model_info import model_info, model_tensors
from lvdm.jobs.run_folder import RunFolder
from lvdm.sampling.pipeline import SamplingSettings
from lvdm.training.autoencoder import Stepping
from lvdm.training.averaging import ExponentialAverage
from lvdm.training.callbacks import StopAtNonFiniteLoss, TimeCap, WriteModelFile
from lvdm.training.checkpoint_file import CheckedIO
from lvdm.training.metrics_file import MetricsFile
from lvdm.training.previews import Previews
from lvdm.training.resuming import ResumingTrainer
from lvdm.training.sharding import Sharded, full_state
from lvdm.training.tensorboard import Tensorboard
from lvdm.types import UserError, first_line

HARMLESS = (
    ".*does not have many workers.*",
    ".*in eval mode at the start of training.*",
    ".*LeafSpec.*",
    ".*is not empty.*",
    ".*on_before_batch_transfer.*",
)


def build_trainer(settings: dict[str, Any], folder: RunFolder, callbacks: list[Callback], *, resume: bool) -> pl.Trainer:
    """Return the trainer; `settings` are those below the key `trainer`."""
    loggers = [Tensorboard(folder.path), MetricsFile(folder.metrics, resume=resume)]
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []  # SaveOnSignal does that
    strategy = {"strategy": Sharded()} if settings.get("strategy") == "fsdp" else {}
    try:
        return ResumingTrainer(
            **{"max_epochs": -1, "num_sanity_val_steps": 0, **settings, **strategy},
            default_root_dir=folder.path,
            logger=loggers,
            callbacks=callbacks,
            enable_checkpointing=False,
            plugins=[CheckedIO(), *slurm],
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {first_line(error).rstrip('.')}; correct the keys below `trainer`") from error


def with_own(own: Callback | list[Callback], ours: list[Callback]) -> list[Callback]:
    """Return the callbacks of the config, then those of lvdm; a progress bar of the config replaces ours."""
    own = own if isinstance(own, list) else [own]
    has_bar = any(isinstance(each, ProgressBar) for each in own)
    return [*own, *(each for each in ours if not (has_bar and isinstance(each, ProgressBar)))]


def build_callbacks(
    settings: dict[str, Any], folder: RunFolder, data_fingerprint: str, evaluation: Planned | None
) -> Iterator[Callback]:
    """Yield the callbacks in their order: users of the averaged weights come before the averaging."""
    sampling = None if settings["sampling"] is None else SamplingSettings(**settings["sampling"])

    def write(module: Any, step: int) -> None:
        tensors = full_state(model_tensors(module.codec, getattr(module, "denoiser", None)))
        if module.global_rank == 0:
            text = getattr(module, "text_encoder", None)
            facts: dict[str, Any] = {"step": step, "data_fingerprint": data_fingerprint, "text_encoder": text}
            facts["trained"] = getattr(module, "trained", None)
            save_model(folder.model, tensors, model_info(settings, module.codec, sampling, **facts))

    def written() -> int:
        return read_info(folder.model).step if folder.model.exists() else -1

    yield StopAtNonFiniteLoss(folder.checkpoints)
    if settings["previews"]["num"] > 0:
        yield Previews(folder.previews, sampling, **settings["previews"])
    yield WriteModelFile(write, written=written)
    if evaluation is not None:
        yield EvaluateInTraining(evaluation, folder, settings)
    if settings["average"] != 0:
        yield ExponentialAverage(settings["average"], each_batch=settings["average_each_batch"])
    if settings["max_minutes"] is not None:
        yield TimeCap(settings["max_minutes"])
    if settings["trainer"].get("enable_progress_bar", True):
        yield TQDMProgressBar(refresh_rate=20)


def num_processes(trainer: dict[str, Any]) -> int:
    """Return devices times nodes; without a number in the config, the devices of this machine count."""
    devices, here = trainer.get("devices", "auto"), torch.cuda.device_count() or 1
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    number = here if devices in ("auto", "-1", -1) else len(devices) if isinstance(devices, list) else int(devices)
    return number * int(trainer.get("num_nodes", 1))


def move_stepping(module: Module, trainer: dict[str, Any]) -> None:
    """Move clipping and accumulation from the trainer's settings to a module that steps two optimizers itself.

    With several processes, its strategy must expect weights that a backward pass does not reach.
    """
    if module.automatic_optimization:
        return
    own = {each.name: trainer.pop(each.name) for each in fields(Stepping) if trainer.get(each.name) is not None}
    module.stepping = Stepping(**own)
    strategy = trainer.get("strategy", "auto")
    if strategy == "ddp" or (strategy == "auto" and num_processes(trainer) > 1):
        trainer["strategy"] = "ddp_find_unused_parameters_true"


def compile_network(module: Module) -> None:
    """Pass what training calls of the network through torch.compile."""
    network = getattr(module, "denoiser", None)
    if network is not None:
        network.compile()
        return
    autoencoder = module.codec.autoencoder
    for name in ("encode", "decode"):
        setattr(autoencoder, name, torch.compile(getattr(autoencoder, name)))


def fit(trainer: pl.Trainer, module: Module, data: VideoData, checkpoint: Path | None) -> None:
    """Train from a checkpoint or from the start; Ctrl-C is a KeyboardInterrupt, and may be pressed again afterwards."""
    before = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        for message in HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except MisconfigurationException as error:
            raise UserError(f"trainer: {first_line(error).rstrip('.')}") from error
        except SystemExit as error:
            if trainer.interrupted:  # Lightning's answer to Ctrl-C
                signal.signal(signal.SIGINT, before)
                raise KeyboardInterrupt from error
            raise
