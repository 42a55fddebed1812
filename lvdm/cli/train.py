"""`scripts/train.py CONFIG...`: from checked settings to a run's folder with checkpoints, metrics, previews and a model file."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lvdm.checkpoints.model_file import save_model
from lvdm.cli import command
from lvdm.cli.dry_run import describe
from lvdm.cli.model_info import load_codec_weights, model_info, model_tensors, require_codec_weights
from lvdm.cli.run_config import OURS, RunConfig
from lvdm.cli.run_folder import RunFolder
from lvdm.config import check, instantiate, load_config, save_config, to_dict, with_defaults
from lvdm.sampling.pipeline import SamplingSettings
from lvdm.training.averaging import ExponentialAverage
from lvdm.training.callbacks import StopAtNonFiniteLoss, TimeCap, WriteModelFile
from lvdm.training.previews import Previews
from lvdm.types import UserError

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Train a stage from YAML: the video autoencoder, or a diffusion model on its latents.",
        example="scripts/train.py configs/lvdm/joint_toy.yaml codec_weights=runs/autoencoder_toy/model.safetensors trainer.max_steps=500",
    )
    parse.add_argument("config", nargs="+", help="YAML files, merged left to right, then key=value overrides")
    parse.add_argument("--name", help="the run's folder under `out`; the last config file's name where absent")
    parse.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|PATH",
        help="auto (default): go on from the run's last.ckpt if there is one; never: refuse a run that exists; PATH: from this checkpoint",
    )
    parse.add_argument("--dry-run", action="store_true", help="build everything without weights, print sizes, train nothing")
    parse.add_argument("--allow-module", action="append", default=[], metavar="NAME", help="a package of yours that targets may name")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), train, argv)


def train(args: argparse.Namespace) -> command.Report:
    config = read(args.config, args.allow_module)
    if args.dry_run:
        return describe(config, allow=args.allow_module)
    settings = to_dict(config)
    folder = RunFolder(Path(settings["out"]) / (args.name or settings["name"] or last_file(args.config).stem))
    checkpoint = folder.checkpoint_to_resume(args.resume)
    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    module = build_module(config, allow=args.allow_module)
    data = instantiate(config.data, allow=args.allow_module)
    data.setup("fit")
    check_cached_latents(data, module)
    folder.make()
    save_config(config, folder.config)
    trainer = build_trainer(settings, folder, data_fingerprint=data.train.fingerprint())
    if settings["compile"]:
        network_of(module).compile()
    with warnings.catch_warnings():
        for true_but_meant in (".*does not have many workers.*", ".*in eval mode at the start of training.*", ".*LeafSpec.*"):
            warnings.filterwarnings("ignore", message=true_but_meant)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=False if checkpoint else None)
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


def build_module(config: DictConfig, *, allow: Sequence[str]) -> pl.LightningModule:
    """The Lightning module; a diffusion stage gets its trained autoencoder."""
    is_diffusion = "denoiser" in config.model.params
    weights = require_codec_weights(config.codec_weights) if is_diffusion else config.codec_weights
    module = instantiate(config.model, allow=allow)
    if weights is not None:
        load_codec_weights(module.codec, weights)
    return module


def network_of(module: pl.LightningModule) -> torch.nn.Module:
    return getattr(module, "denoiser", None) or module.codec.autoencoder


def check_cached_latents(data: pl.LightningDataModule, module: pl.LightningModule) -> None:
    """Latents of another autoencoder look like latents but mean something else."""
    made_by, used = getattr(data.train, "codec_fingerprint", None), module.codec.fingerprint()
    if made_by is not None and made_by != used:
        raise UserError(
            f"the cached latents were made by another autoencoder ({made_by[:8]}) than codec_weights ({used[:8]}); run scripts/encode.py again"
        )


def build_trainer(settings: dict[str, Any], folder: RunFolder, *, data_fingerprint: str) -> pl.Trainer:
    loggers = [TensorBoardLogger(folder.path, name="tensorboard", version=""), CSVLogger(folder.path, name="", version="")]
    return pl.Trainer(
        **{"max_epochs": -1, "num_sanity_val_steps": 0, **settings["trainer"]},
        default_root_dir=folder.path,
        logger=loggers,
        callbacks=list(build_callbacks(settings, folder, data_fingerprint)),
    )


def build_callbacks(settings: dict[str, Any], folder: RunFolder, data_fingerprint: str) -> Sequence[Callback]:
    """In this order: what uses the averaged weights stands before the averaging itself."""
    sampling = None if settings["sampling"] is None else SamplingSettings(**settings["sampling"])

    def write(module: pl.LightningModule, step: int) -> None:
        info = model_info(settings, module.codec, sampling, step=step, data_fingerprint=data_fingerprint)
        save_model(folder.model, model_tensors(module.codec, getattr(module, "denoiser", None)), info)

    yield StopAtNonFiniteLoss(folder.checkpoints)
    if settings["previews"]["num"] > 0:
        yield Previews(folder.previews, sampling, **settings["previews"])
    yield WriteModelFile(write)
    if settings["average"] > 0:
        yield ExponentialAverage(settings["average"])
    if settings["max_minutes"] is not None:
        yield TimeCap(settings["max_minutes"])
    yield ModelCheckpoint(
        folder.checkpoints, filename="{step}", save_last=True, save_top_k=settings["checkpoints"]["keep"],
        every_n_train_steps=settings["checkpoints"]["every_steps"], save_on_train_epoch_end=False,
    )  # fmt: skip
    if settings["trainer"].get("enable_progress_bar", True):
        yield TQDMProgressBar(refresh_rate=20)
