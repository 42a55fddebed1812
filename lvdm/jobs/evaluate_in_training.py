"""`evaluation:` of a training config: a protocol at validations, on the averaged weights, measured by all processes together.

Training does not depend on it: no random number of training is drawn, and a run ends with the same weights without it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.seed import isolate_rng

from lvdm.data import VideoData, VideoFolder
from lvdm.evaluation.measure import RealSide, Settings, check_counts, measure_fake, measure_real
from lvdm.evaluation.metrics.scores import ScoreOptions
from lvdm.evaluation.protocols.manifest import write_manifest
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.results.provenance import Origin, WeightsInMemory
from lvdm.evaluation.results.result import Result
from lvdm.evaluation.sources.model import ModelSource, Sampling
from lvdm.evaluation.sources.sampled import weights_sha256
from lvdm.evaluation.sources.videos import Source, videos_of
from lvdm.jobs.evaluate import EvalSettings
from lvdm.jobs.run_config import Evaluation
from lvdm.jobs.run_folder import RunFolder
from lvdm.models.features.extractors import Extractor, check_frames, make_extractor, moved
from lvdm.processes import gather
from lvdm.sampling.pipeline import SamplingSettings
from lvdm.training.autoencoder import AutoencoderTraining
from lvdm.training.callbacks import is_last_step
from lvdm.training.diffusion import LatentDiffusion
from lvdm.training.previews import video_model
from lvdm.training.sharding import full_state
from lvdm.training.signals import SaveOnSignal
from lvdm.types import UserError

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]  # the resolved one of the run
LEAST = {"fewer": 2, "every": 1, "seed": 0, "batch_size": 1}


@dataclass(frozen=True)
class Planned:
    """The parts of an evaluation that all validations of a run share."""

    protocol: EvalProtocol
    real: Source | None
    extractor: Extractor
    settings: Settings
    sampling: Sampling
    every: int  # validations


class EvaluateInTraining(Callback):
    """Logs eval/<metric> and writes evaluations/step=N.json, and once evaluations/real.manifest.jsonl.

    It stands before the averaging callback, which gives the trained weights back when validation ends. An error in an
    evaluation is logged, and training continues.
    """

    def __init__(self, planned: Planned, folder: RunFolder, config: Config) -> None:
        self.planned, self.folder, self.config = planned, folder, config
        self._real: RealSide | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the real clips before the first step, so that an error comes then."""
        self._prepare(trainer, pl_module)

    @isolate_rng()
    def _prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the real clips, once; a resumed run may validate before it trains."""
        self.planned = its = replace(self.planned, extractor=moved(self.planned.extractor, pl_module.device))
        if its.real is None or self._real is not None:
            return
        self._real = measure_real(its.protocol, its.real, its.extractor, its.settings)
        if trainer.is_global_zero:
            write_manifest(self.folder.evaluations / "real.manifest.jsonl", self._real.manifest)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        every = self.planned.every
        if every > 1 and validations_so_far(trainer) % every and not is_last_step(trainer):
            return
        self._prepare(trainer, pl_module)
        try:
            result = self._measure(pl_module, trainer)  # what fails for one process fails for all
            for name, value in result.metrics.items():
                pl_module.log(f"eval/{name}", value.value, sync_dist=True)
            if trainer.is_global_zero:
                result.save(self.folder.evaluations / f"step={trainer.global_step}.json")
        except UserError as error:
            logger.error("cannot evaluate step %d (%s): training continues", trainer.global_step, error)

    @isolate_rng()
    def _measure(self, module: pl.LightningModule, trainer: pl.Trainer) -> Result:
        assert isinstance(module, LatentDiffusion), "check_evaluation lets no other through"
        its = self.planned
        whole = full_state(module.denoiser.state_dict())  # of a denoiser in parts by all, for the first process
        weights = weights_sha256(module.codec, whole) if module.global_rank == 0 else ""
        running = WeightsInMemory(
            name=self.folder.path.name,
            step=trainer.global_step,
            sha256=gather(weights)[0],
            config_sha256=hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest(),
            is_ema=self.config["average"] != 0,
        )
        fake = _source(running, module, self.config, its.sampling)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
        for signals in (each for each in callbacks if isinstance(each, SaveOnSignal)):
            fake = replace(fake, before_group=partial(signals.leave_validation, trainer))
        return measure_fake(its.protocol, self._real, fake, its.extractor, ScoreOptions(its.protocol.metrics), its.settings)


def validations_so_far(trainer: pl.Trainer) -> int:
    """Return how many validations were due, this one included. They are counted by the position in training: a
    resumed run starts after the validation of its checkpoint's step."""
    assert trainer.val_check_batch is not None, "`check_evaluation` refuses validations by time"
    batches = int(trainer.val_check_batch)
    if trainer.check_val_every_n_epoch is None:
        return (trainer.fit_loop.total_batch_idx + 1) // batches
    of_epoch = int(trainer.num_training_batches) // batches
    return trainer.current_epoch // trainer.check_val_every_n_epoch * of_epoch + (trainer.fit_loop.batch_idx + 1) // batches


# Before the run leaves its first file ------------------------------------------------------------------------------------


def check_evaluation(config: Config, module: AutoencoderTraining | LatentDiffusion) -> None:
    """Refuse what can be refused without reading the disk."""
    if config["evaluation"] is None:
        return
    with _about_evaluation():
        if not isinstance(module, LatentDiffusion):
            raise UserError(
                "an autoencoder makes no videos, and val/psnr and val/ssim show how well it keeps given ones; leave it out"
            )
        if module.reads_text:
            raise UserError("clips are sampled without captions, and the denoiser reads some; leave it out")
        if config["data"]["params"].get("val") is None or config["trainer"].get("limit_val_batches") == 0:
            raise UserError("it is a part of validation, and there is none; give data.params.val, or leave it out")
        wanted = Evaluation(**config["evaluation"])
        for key, least in LEAST.items():
            number = getattr(wanted, key)
            if number is not None and number < least:
                raise UserError(f"{key} is {number}, expected {least} or more")
        if wanted.every > 1 and isinstance(config["trainer"].get("val_check_interval"), (str, dict)):
            raise UserError("every counts validations that come every so many batches, and these come by time; leave it out")
        _source([Path("model.safetensors")], module, config, _sampling(wanted)).check(_protocol(wanted))


@isolate_rng()
def planned(config: Config, module: pl.LightningModule, data: VideoData, *, allow: Sequence[str]) -> Planned | None:
    """Return the evaluation that `check_evaluation` accepted, with its real videos and its extractor."""
    if config["evaluation"] is None:
        return None
    assert isinstance(module, LatentDiffusion), "`check_evaluation` refuses another"
    wanted = Evaluation(**config["evaluation"])
    with _about_evaluation():
        protocol, sampling = _protocol(wanted), _sampling(wanted)
        real = _real(wanted, protocol, data, allow)
        batch_size = wanted.batch_size or Settings.batch_size
        settings = Settings(batch_size, data.num_workers, wanted.fewer, wanted.fewer is not None)
        extractor = make_extractor(protocol.extractor, seed=wanted.feature_seed, width=wanted.feature_width)
        check_frames(extractor, protocol.frames)
        source = _source([Path("model.safetensors")], module, config, sampling)
        check_counts(protocol, real, source, ScoreOptions(protocol.metrics), extractor, settings)
    return Planned(protocol, real, extractor, settings, sampling, wanted.every)


@contextmanager
def _about_evaluation() -> Iterator[None]:
    """Let a user's error say that it is about evaluation."""
    try:
        yield
    except UserError as error:
        raise UserError(f"evaluation: {error}") from error


def _protocol(wanted: Evaluation) -> EvalProtocol:
    """Return the requested protocol, and refuse another split than the test part for the videos of data.val."""
    settings = _settings(wanted)
    if wanted.real is None and (wanted.split or "split" in wanted.set) and settings.part != "test":
        raise UserError(f"split {settings.part} has no effect on the videos of data.params.val; leave it out, or name real ones")
    return settings.protocol(wanted.protocol, wanted.features)


def _settings(wanted: Evaluation) -> EvalSettings:
    return EvalSettings(wanted.set, wanted.split)


def _sampling(wanted: Evaluation) -> Sampling:
    return Sampling(steps=wanted.steps, seed=wanted.seed, batch_size=wanted.batch_size)


def _source(origin: Origin, module: LatentDiffusion, config: Config, sampling: Sampling) -> ModelSource:
    return ModelSource(origin, video_model(module, SamplingSettings(**config["sampling"])), sampling)


def _real(wanted: Evaluation, protocol: EvalProtocol, data: VideoData, allow: Sequence[str]) -> Source | None:
    if not protocol.uses_real:
        if wanted.real is not None:
            raise UserError(f"{protocol.name} looks at no real videos; leave real out")
        return None
    if wanted.real is not None:
        return replace(_settings(wanted), allow=allow).open_real(wanted.real, protocol)
    if not isinstance(data.val, VideoFolder):
        kind = type(data.val).__name__
        raise UserError(f"{protocol.name} compares with real videos, and data.params.val is {kind}; name some as evaluation.real")
    return videos_of(f"{data.val.root.name} (val)", {"test": data.val})
