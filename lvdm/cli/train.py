"""`scripts/train.py CONFIG...`: from checked settings to a run's folder with checkpoints, metrics, previews and a model file."""

from __future__ import annotations

import argparse
import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, ProgressBar, TQDMProgressBar
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lvdm.checkpoints.model_file import read_info, save_model
from lvdm.cli import command
from lvdm.cli.check_data import check_data
from lvdm.cli.dry_run import describe, num_processes
from lvdm.config import check, instantiate, load_config, save_config, to_dict, with_defaults
from lvdm.data import VideoData
from lvdm.jobs.checks import (
    Module,
    check_cached_latents,
    check_checkpoint,
    check_pace,
    check_run,
    check_seed,
    check_text,
    clip_shapes,
)
from lvdm.jobs.evaluate_in_training import EvaluateInTraining, Planned, planned
from lvdm.jobs.lock import only_one
from lvdm.jobs.model_info import load_codec_weights, model_info, model_tensors, require_codec_weights
from lvdm.jobs.resume import check_unchanged, checkpoint_to_resume
from lvdm.jobs.run_config import OURS, RunConfig
from lvdm.jobs.run_folder import RunFolder
from lvdm.sampling.pipeline import SamplingSettings
from lvdm.training.autoencoder import Stepping
from lvdm.training.averaging import ExponentialAverage
from lvdm.training.callbacks import StopAtNonFiniteLoss, TimeCap, WriteModelFile
from lvdm.training.checkpoint_file import CheckedIO
from lvdm.training.checkpointing import SaveCheckpoints
from lvdm.training.metrics_file import MetricsFile
from lvdm.training.previews import Previews
from lvdm.training.resuming import ResumingTrainer
from lvdm.training.sharding import Sharded, full_state
from lvdm.training.signals import SaveOnSignal, StoppedBySignal
from lvdm.training.tensorboard import Tensorboard
from lvdm.types import UserError

logger = logging.getLogger(__name__)

MEANT = (".*does not have many workers.*", ".*in eval mode at the start of training.*", ".*LeafSpec.*", ".*is not empty.*")


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Train a stage from YAML: the video autoencoder, or a diffusion model on its latents.",
        example="scripts/train.py configs/lvdm/joint_toy.yaml codec_weights=runs/autoencoder_toy/model.safetensors max_minutes=5",
    )
    parse.add_argument("config", nargs="+", help="YAML files, merged left to right, then key=value overrides")
    parse.add_argument("--name", help="the run's folder under `out`; the last config file's name where absent")
    parse.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|PATH",
        help="auto (default): go on from the run's newest whole checkpoint if there is one; never: refuse a run that exists; "
        "PATH: from this checkpoint",
    )
    parse.add_argument("--allow-changes", action="store_true", help="go on with another config or data set than the checkpoint's")
    only = parse.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="build everything without weights, print sizes, train nothing")
    only.add_argument("--check-data", action="store_true", help="look at every video, print what is there, train nothing")
    command.add_allow_module(parse)
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), train, argv)


def train(args: argparse.Namespace) -> command.Report:
    config = read(args.config, args.allow_module)
    if args.dry_run:
        return describe(config, allow=args.allow_module)
    settings = to_dict(config)
    folder = RunFolder.of(settings["out"], args.name or settings["name"] or last_file(args.config).stem)
    if args.check_data:
        return check_data(config, folder.path.with_name(f"{folder.path.name}_data"), allow=args.allow_module)
    with only_one(folder):
        return train_in(folder, config, args)


def train_in(folder: RunFolder, config: DictConfig, args: argparse.Namespace) -> command.Report:
    """Train in a run's folder, from its checkpoint if it has one."""
    settings = to_dict(config)
    checkpoint = checkpoint_to_resume(folder, args.resume)
    check_seed("seed", settings["seed"])
    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    module = build_module(config, allow=args.allow_module)
    data = instantiate(config.data, allow=args.allow_module)
    check_all(settings, module, data, checkpoint)
    evaluation = planned(settings, module, data, allow=args.allow_module)
    take_stepping(module, trainer_settings := instantiate(settings["trainer"], allow=args.allow_module))
    fingerprint = data.train.fingerprint()
    checkpoints = SaveCheckpoints(folder.checkpoints, **settings["checkpoints"])
    ours = [*build_callbacks(settings, folder, fingerprint, evaluation), checkpoints, SaveOnSignal(checkpoints)]
    callbacks = with_own(trainer_settings.pop("callbacks", None) or [], ours)
    trainer = build_trainer(trainer_settings, folder, callbacks, resume=checkpoint is not None)
    facts = {"data": fingerprint, "samples of a batch of all processes": data.batch_size * trainer.world_size}
    if (text := getattr(module, "text_encoder", None)) is not None:
        facts["text encoder"] = text.fingerprint()
    if checkpoint is not None:
        check_unchanged(checkpoint, settings, facts, allow_changes=args.allow_changes)
    checkpoints.facts = facts
    folder.make()  # by every process: machines may share no disk
    data.record_skipped(folder.skipped)
    if trainer.is_global_zero:
        save_config(config, folder.config)
        print(batch_and_rate(settings, module, data, trainer.world_size))
    if settings["compile"]:
        compile_network(module)
    fit(trainer, module, data, checkpoint)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        print(f"{trainer.global_step} steps; model file: {folder.model}")
    return {"run": str(folder.path), "model": str(folder.model), "steps": trainer.global_step, "metrics": metrics}


def read(arguments: Sequence[str], allow: Sequence[str]) -> DictConfig:
    """The checked config of files and key=value overrides."""
    files = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    config = load_config(files, overrides)
    check(config, schema=RunConfig, allow=allow, provided={"trainer": OURS})
    return with_defaults(config, RunConfig)


def last_file(arguments: Sequence[str]) -> Path:
    return Path([argument for argument in arguments if "=" not in argument][-1])


def build_module(config: DictConfig, *, allow: Sequence[str]) -> Module:
    """The Lightning module; a diffusion stage gets its trained autoencoder."""
    is_diffusion = "denoiser" in config.model.params
    weights = require_codec_weights(config.codec_weights) if is_diffusion else config.codec_weights
    module = instantiate(config.model, allow=allow)
    if weights is not None:
        load_codec_weights(module.codec, weights)
    return module


def check_all(settings: dict[str, Any], module: Module, data: VideoData, checkpoint: Path | None) -> None:
    """Everything that can be refused is refused here, before the run leaves its first file."""
    data.setup("fit")
    clips = clip_shapes(data, module, look=True)
    check_cached_latents(data, module)
    check_text(data, module)
    check_run(settings, module, clips)
    check_pace(settings["trainer"], len(data.train_dataloader()))
    if checkpoint is not None:
        check_checkpoint(checkpoint, module)
    if data.val is None and settings["previews"]["num"] > 0:
        logger.warning("without validation data there are no previews, and the model file is written at the end only")


def batch_and_rate(settings: dict[str, Any], module: Module, data: VideoData, processes: int) -> str:
    """What a step sees, and the learning rate, which no number of processes changes."""
    accumulated = settings["trainer"].get("accumulate_grad_batches") or 1
    factors = [f"{data.batch_size} samples", f"{processes} processes", *([f"{accumulated} batches"] if accumulated > 1 else [])]
    samples = data.batch_size * processes * accumulated
    return f"{' x '.join(factors)} = {samples} samples a step; learning rate {module.optimizer.lr:g}"


def take_stepping(module: Module, trainer: dict[str, Any]) -> None:
    """Two optimizers in turn are stepped by the module itself: clipping and accumulation go there from Lightning's settings, and
    several processes must expect weights that a backward pass does not reach."""
    if module.automatic_optimization:
        return
    own = {each.name: trainer.pop(each.name) for each in fields(Stepping) if trainer.get(each.name) is not None}
    module.stepping = Stepping(**own)
    strategy = trainer.get("strategy", "auto")
    if strategy == "ddp" or (strategy == "auto" and num_processes(trainer) > 1):
        trainer["strategy"] = "ddp_find_unused_parameters_true"


def compile_network(module: Module) -> None:
    """What training calls of the network goes through torch.compile."""
    network = getattr(module, "denoiser", None)
    if network is not None:
        network.compile()
        return
    autoencoder = module.codec.autoencoder
    for name in ("encode", "decode"):
        setattr(autoencoder, name, torch.compile(getattr(autoencoder, name)))


def fit(trainer: pl.Trainer, module: Module, data: VideoData, checkpoint: Path | None) -> None:
    with warnings.catch_warnings():
        for true_but_meant in MEANT:
            warnings.filterwarnings("ignore", message=true_but_meant)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except MisconfigurationException as error:
            raise UserError(f"trainer: {_first_line(error)}") from error
        except StoppedBySignal as stop:
            raise command.Stopped(str(stop), status=0 if stop.number == signal.SIGUSR1 else 128 + stop.number) from stop
        except SystemExit as error:
            if trainer.interrupted:  # Lightning's answer to Ctrl-C
                raise KeyboardInterrupt from error
            raise


def build_trainer(settings: dict[str, Any], folder: RunFolder, callbacks: list[Callback], *, resume: bool) -> pl.Trainer:
    """`settings` are those of `trainer`."""
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
        raise UserError(f"trainer: {_first_line(error)}; mend the keys below `trainer`") from error


def build_callbacks(
    settings: dict[str, Any], folder: RunFolder, data_fingerprint: str, evaluation: Planned | None
) -> Iterator[Callback]:
    """In this order: what uses the averaged weights stands before the averaging; what saves the state of a step comes behind."""
    sampling = None if settings["sampling"] is None else SamplingSettings(**settings["sampling"])

    def write(module: pl.LightningModule, step: int) -> None:
        tensors = full_state(model_tensors(module.codec, getattr(module, "denoiser", None)))
        if module.global_rank == 0:
            known = {"data_fingerprint": data_fingerprint, "text_encoder": getattr(module, "text_encoder", None)}
            info = model_info(settings, module.codec, sampling, step=step, **known)
            save_model(folder.model, tensors, info)

    def written() -> int:
        return read_info(folder.model).step if folder.model.exists() else -1

    yield StopAtNonFiniteLoss(folder.checkpoints)
    if settings["previews"]["num"] > 0:
        yield Previews(folder.previews, sampling, **settings["previews"])
    yield WriteModelFile(write, written=written)
    if evaluation is not None:
        yield EvaluateInTraining(evaluation, folder, settings)
    if settings["average"] != 0:
        yield ExponentialAverage(settings["average"])
    if settings["max_minutes"] is not None:
        yield TimeCap(settings["max_minutes"])
    if settings["trainer"].get("enable_progress_bar", True):
        yield TQDMProgressBar(refresh_rate=20)


def with_own(own: Callback | list[Callback], ours: list[Callback]) -> list[Callback]:
    """Return the callbacks of the config, then those of lvdm; a progress bar of the config replaces ours."""
    own = own if isinstance(own, list) else [own]
    has_bar = any(isinstance(each, ProgressBar) for each in own)
    return [*own, *(each for each in ours if not (has_bar and isinstance(each, ProgressBar)))]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
