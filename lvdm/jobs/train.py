"""`train`: from a config to a run's folder with checkpoints, metrics, previews and a model file."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from lvdm.config import instantiate, save_config, to_dict
from lvdm.data import VideoData
from lvdm.jobs.checks import (
    SEED,
    Module,
    check_cached_latents,
    check_checkpoint,
    check_labels,
    check_pace,
    check_run,
    check_text,
    clip_shapes,
)
from lvdm.jobs.evaluate_in_training import planned
from lvdm.jobs.load import load
from lvdm.jobs.lock import only_one
from lvdm.jobs.model_info import load_codec_weights, require_codec_weights
from lvdm.jobs.resume import check_unchanged, checkpoint_to_resume
from lvdm.jobs.run_config import read_run_config
from lvdm.jobs.run_folder import RunFolder
from lvdm.jobs.settings import Config, Overrides, as_list
from lvdm.jobs.trained import trained_by
from lvdm.jobs.trainer import build_callbacks, build_trainer, compile_network, fit, move_stepping, with_own
from lvdm.rules import require
from lvdm.sampling.pipeline import VideoModel
from lvdm.training.checkpointing import SaveCheckpoints
from lvdm.training.diffusion import LatentDiffusion
from lvdm.training.signals import SaveOnSignal
from lvdm.types import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    folder: RunFolder
    steps: int
    metrics: dict[str, float]  # the last value of each
    allow: tuple[str, ...] = ()  # your packages that the config names classes of

    @property
    def model_file(self) -> Path:
        return self.folder.model

    @cached_property
    def model(self) -> VideoModel:
        """Return the trained model on the CPU, with averaged weights; it is loaded at the first use."""
        return load(self.model_file, allow=self.allow)


def train(
    config: Config,
    overrides: Overrides = None,
    *,
    name: str | None = None,
    resume: str | Path = "auto",
    allow_changes: bool = False,
    allow: Sequence[str] = (),
) -> Run:
    """Train a stage: the video autoencoder, or a diffusion model on its latents.

    Args:
        config: a YAML file, a mapping, or several of them, merged left to right.
        overrides: {"trainer.max_steps": 500} or ["trainer.max_steps=500"].
        name: of the run's folder below the config's `out`; None takes the config's `name`, or that of its last file.
        resume: "auto" resumes the run from its newest complete checkpoint if there is one, "never" refuses an existing run,
            and a path resumes from that checkpoint.
        allow_changes: resume with another config or data set than the checkpoint's.
        allow: your packages that the config may name classes of.
    """
    settings = read_run_config(config, overrides, allow=allow)
    folder = run_folder(settings, config, name)
    with only_one(folder):
        return _train_in(folder, settings, str(resume), allow_changes=allow_changes, allow=allow)


def run_folder(settings: DictConfig, config: Config, name: str | None) -> RunFolder:
    """Return the folder of a run of this config."""
    files = [each for each in as_list(config) if isinstance(each, str | os.PathLike)]
    name = name or settings.name or (Path(files[-1]).stem if files else None)
    if name is None:
        raise UserError("this run has no name; give name, in the call or in the config")
    return RunFolder.of(settings.out, name)


def _train_in(folder: RunFolder, config: DictConfig, resume: str, *, allow_changes: bool, allow: Sequence[str]) -> Run:
    settings = to_dict(config)
    checkpoint = checkpoint_to_resume(folder, resume)
    require(SEED, seed=settings["seed"])
    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    module = _build_module(config, allow=allow)
    data = instantiate(config.data, allow=allow)
    _check_all(settings, module, data, checkpoint)
    if isinstance(module, LatentDiffusion):
        module.trained = trained_by(module, data)
    evaluation = planned(settings, module, data, allow=allow)
    move_stepping(module, trainer_settings := instantiate(settings["trainer"], allow=allow))
    fingerprint = data.train.fingerprint()
    checkpoints = SaveCheckpoints(folder.checkpoints, **settings["checkpoints"])
    ours = [
        *build_callbacks(settings, folder, fingerprint, evaluation),
        checkpoints,
        SaveOnSignal(checkpoints, validates_long=evaluation is not None),
    ]
    callbacks = with_own(trainer_settings.pop("callbacks", None) or [], ours)
    trainer = build_trainer(trainer_settings, folder, callbacks, resume=checkpoint is not None)
    facts = {"data": fingerprint, "samples of a batch of all processes": data.batch_size * trainer.world_size}
    if (text := getattr(module, "text_encoder", None)) is not None:
        facts["text encoder"] = text.fingerprint()
    if checkpoint is not None:
        check_unchanged(checkpoint, settings, facts, allow_changes=allow_changes)
    checkpoints.facts = facts
    folder.make()  # in every process: machines may share no disk
    data.record_skipped(folder.skipped)
    if trainer.is_global_zero:
        save_config(config, folder.config)
        logger.info(_batch_and_rate(settings, module, data, trainer.world_size))
    if settings["compile"]:
        compile_network(module)
    fit(trainer, module, data, checkpoint)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return Run(folder, trainer.global_step, metrics, tuple(allow))


def _build_module(config: DictConfig, *, allow: Sequence[str]) -> Module:
    """Return the Lightning module; a diffusion stage gets its trained autoencoder."""
    is_diffusion = "denoiser" in config.model.params
    weights = require_codec_weights(config.codec_weights) if is_diffusion else config.codec_weights
    module = instantiate(config.model, allow=allow)
    if weights is not None:
        load_codec_weights(module.codec, weights)
    return module


def _check_all(settings: dict[str, Any], module: Module, data: VideoData, checkpoint: Path | None) -> None:
    """Refuse whatever can be refused before the run writes its first file."""
    data.setup("fit")
    clips = clip_shapes(data, module, look=True)
    check_cached_latents(data, module)
    check_text(data, module)
    check_labels(data, module)
    check_run(settings, module, clips)
    check_pace(settings["trainer"], len(data.train_dataloader()))
    if checkpoint is not None:
        check_checkpoint(checkpoint, module)
    if data.val is None and settings["previews"]["num"] > 0:
        logger.warning("without validation data there are no previews, and the model file is written at the end only")


def _batch_and_rate(settings: dict[str, Any], module: Module, data: VideoData, processes: int) -> str:
    """Return a line with the samples of a step, and with the learning rate, which no number of processes changes."""
    accumulated = settings["trainer"].get("accumulate_grad_batches") or 1
    factors = [f"{data.batch_size} samples", f"{processes} processes", *([f"{accumulated} batches"] if accumulated > 1 else [])]
    samples = data.batch_size * processes * accumulated
    return f"{' x '.join(factors)} = {samples} samples a step; learning rate {module.optimizer.lr:g}"
