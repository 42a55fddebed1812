"""The keys at the root of a training config, with their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from omegaconf import DictConfig

from lvdm.config import ArgumentsOf, with_defaults
from lvdm.data import VideoData
from lvdm.jobs.settings import Config, Overrides, read_settings
from lvdm.sampling.pipeline import SamplingSettings
from lvdm.training import AutoencoderTraining, LatentDiffusion


@dataclass
class Checkpoints:
    """The checkpoints of a run."""

    every_steps: int = 1000  # last.ckpt is written this often, and at the end
    keep: int = 0  # how many step=... checkpoints are kept next to last.ckpt; -1 keeps all


@dataclass
class Previews:
    """The videos that are sampled or coded at validations."""

    num: int = 2  # videos per validation; 0 writes none
    steps: int | None = None  # sampling steps; None takes sampling.steps


@dataclass
class Evaluation:
    """A protocol, as `evaluate` measures it, on the model in training."""

    protocol: str  # a named one, or custom, with `set`
    real: str | None = None  # real videos, as `evaluate` takes them; None: those of data.params.val, the test part of the data
    split: str | None = None  # part of `real`: train, which is taken for None, test or train+test
    set: dict[str, Any] = field(default_factory=dict)  # changes of the protocol, which then is called custom
    features: str | None = None  # random, which needs no weights and is not comparable, or the name of an extractor
    feature_width: float = 1.0  # of random ones: a fraction of the channels
    feature_seed: int = 0  # of random ones
    fewer: int | None = None  # at most this many clips of each, if the protocol takes more; renames the metric: fvd_n256
    every: int = 1  # validations from one evaluation to the next; the last one of a run is always evaluated
    steps: int | None = None  # sampling steps; None takes sampling.steps
    seed: int = 0  # of the clips, which start from the same noise at every evaluation
    batch_size: int | None = None  # clips sampled and measured at once; None: as many as are useful


@dataclass
class RunConfig:
    """One training run."""

    model: AutoencoderTraining | LatentDiffusion
    data: VideoData
    trainer: Annotated[dict[str, Any], ArgumentsOf("pytorch_lightning.Trainer")]
    define: dict[str, Any] = field(default_factory=dict)  # names of your own, for ${define.NAME} elsewhere
    name: str | None = None  # of the run; None takes the name of the config file
    out: str = "runs"  # folder of runs
    seed: int = 0
    codec_weights: str | None = None  # model.safetensors of the autoencoder that a diffusion stage trains on
    average: float = 0.9999  # decay of the averaged weights; 0 averages nothing
    average_each_batch: bool = False  # update the average after every batch, as published, not only when a step is done
    max_minutes: float | None = None  # training ends after this time at the latest, and the learning rate falls towards that end
    compile: bool = False  # torch.compile the network
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    previews: Previews = field(default_factory=Previews)
    evaluation: Evaluation | None = None  # of a diffusion stage, at validations; None measures nothing
    sampling: SamplingSettings | None = None  # the defaults that the model file carries for sampling


OURS = ("logger", "default_root_dir", "max_time", "enable_checkpointing")  # trainer keys that a run sets itself


def read_run_config(
    config: Config, overrides: Overrides = None, *, allow: Sequence[str] = (), defaults: bool = True
) -> DictConfig:
    """Return a checked training config, with a default for each absent key unless `defaults` is False."""
    checked = read_settings(config, overrides, schema=RunConfig, allow=allow, provided={"trainer": OURS})
    return with_defaults(checked, RunConfig) if defaults else checked
