"""Measure videos from Python: distances of clips, and features. `scripts/eval.py` calls `evaluate`.

Videos are an array or a tensor, uint8 (n, t, h, w, 3) or float in [-1, 1] (n, 3, t, h, w); a folder; an npy or npz file; the
YAML of a data set; and, if they are generated, a model file or a loaded model, which is sampled from.

    result = evaluate(real, "runs/short/model.safetensors", num=256)  # fvd_n256
    result.values["fvd"].value; result.save("results/short.json")
    fvd(real, fake); features(real).shape
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import torch
from torch import Tensor

from lvdm.config import import_packages
from lvdm.evaluation.extensions import extractor_name, protocol_name
from lvdm.evaluation.features import extract
from lvdm.evaluation.measure import Settings, measure_protocol
from lvdm.evaluation.metrics.scores import ScoreOptions
from lvdm.evaluation.protocols.named import changed_protocol, random_extractor
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.results.result import Result
from lvdm.evaluation.sources.model import ModelSource, Sampling
from lvdm.evaluation.sources.sampled import origin_of
from lvdm.evaluation.sources.splits import check_split
from lvdm.evaluation.sources.videos import Source, open_source, require_split
from lvdm.evaluation.statistics import Statistics, read_statistics
from lvdm.jobs.evaluate_rules import COUNT, NAME_OR_PROTOCOL, NAMES, RULES
from lvdm.jobs.load import load
from lvdm.models.features.extractors import Extractor, make_extractor
from lvdm.processes import Process, as_device, gather, process_group
from lvdm.rules import FLAG, TEXT, optional, require, require_each
from lvdm.sampling.pipeline import VideoModel
from lvdm.types import UserError

logger = logging.getLogger(__name__)

Model: TypeAlias = str | Path | VideoModel
Videos: TypeAlias = str | Path | np.ndarray | Tensor
CLIPS = "lvdm-fvd2048"  # a protocol


@dataclass(frozen=True)
class EvalSettings:
    """Settings of a measurement, besides the protocol.

    Args:
        changes: fields of the protocol to change, after which it is called custom. A `split` here is the one below.
        split: part of the real data: train, test or train+test. A folder without parts is refused, unless its name says that it
            is this part.
        default_split: the part that is read if none is named. Of a folder without parts all is read then.
        feature_width: of random features, a fraction of the published channels.
        feature_seed: of random features.
        weights: files of your own for the protocol's network instead of the published ones; the numbers are not comparable.
        bootstrap: resamples of 95 % intervals; 0 gives none.
        extrapolate: also measure FVD at infinitely many clips, free of bias.
        replay: the manifest of a measurement; its real clips are taken, and their pixels are checked.
        batch_size: clips that are read at once.
        workers: processes that read videos.
        is_cached: whether features of real clips are cached, below LVDM_CACHE.
        device: auto, cpu, cuda or cuda:N.
        allow: your packages that may be imported; they may add metrics, extractors and protocols.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    split: str | None = None
    default_split: str = "train"
    feature_width: float = 1.0
    feature_seed: int = 0
    weights: Sequence[Path] = ()
    bootstrap: int = 0
    extrapolate: bool = False
    replay: Path | None = None
    batch_size: int = 8
    workers: int = 0
    is_cached: bool = True
    device: str | torch.device = "auto"
    allow: Sequence[str] = ()

    def __post_init__(self) -> None:
        require_each(RULES, vars(self))

    def protocol(self, name: str | EvalProtocol, features: str | None = None) -> EvalProtocol:
        """Return the protocol with the changes and the features, "random" or the name of an extractor."""
        require(NAME_OR_PROTOCOL, protocol=name)
        require(optional(TEXT), features=features)
        import_packages(self.allow)
        changes = {key: value for key, value in self.changes.items() if key != "split"}
        if "extractor" in changes:
            changes["extractor"] = extractor_name(str(changes["extractor"]), self.allow)
        features = None if features is None else extractor_name(features, self.allow)
        return changed_protocol(protocol_name(name, self.allow) if isinstance(name, str) else name, changes, features)

    def scores(self, protocol: EvalProtocol, metrics: Sequence[str] | None = None) -> ScoreOptions:
        """Return what is computed of the features, once it fits the protocol."""
        require(optional(NAMES), metrics=metrics)
        options = ScoreOptions(protocol.metrics if metrics is None else tuple(metrics), self.bootstrap, self.extrapolate)
        options.check(protocol)
        return options

    def measuring(self, num: int | None, allow_fewer: bool) -> Settings:
        """Return how clips are read, and how many."""
        require(COUNT, num=num)
        require(FLAG, allow_fewer=allow_fewer)
        num = None if num is None else int(num)  # numpy's integers are none of JSON
        return Settings(self.batch_size, self.workers, num, allow_fewer, self.replay, self.is_cached)

    def extractor(self, protocol: EvalProtocol) -> Extractor:
        """Return the network of a protocol."""
        return self.network(protocol.extractor)

    def network(self, name: str) -> Extractor:
        """Return the network of a name."""
        device, seed = as_device(self.device), self.feature_seed
        return make_extractor(name, device=device, seed=seed, width=self.feature_width, weights=self.weights)

    @property
    def part(self) -> str:
        """Return the split that is read."""
        return check_split(self.named_split or self.default_split)

    @property
    def named_split(self) -> str | None:
        """Return the split that was named, here or in the changes."""
        changed = self.changes.get("split")
        if None not in (changed, self.split) and changed != self.split:
            raise UserError(f"split is {self.split}, and changes have the split {changed}; give one of them")
        return changed or self.split

    def open(self, videos: Videos, protocol: EvalProtocol) -> Source:
        """Return the source of videos that exist."""
        return open_source(videos, split=self.part, quantise=protocol.quantise, allow=self.allow)

    def open_real(self, real: Videos | None, protocol: EvalProtocol) -> Source | None:
        """Return the source of the real videos, or None for a protocol that uses none."""
        if real is None and protocol.uses_real:
            raise UserError(f"{protocol.name} compares with real videos; give real ones")
        if protocol.uses_real:
            assert real is not None
            source = self.open(real, protocol)
            if self.named_split is not None:
                require_split(source, self.named_split)
            return source
        if real is not None or self.replay is not None:
            raise UserError(f"{protocol.name} looks at no real videos; leave real and replay out")
        return None

    def check_on_statistics(self) -> None:
        """Refuse what says which real videos are read if only their statistics are."""
        chosen = {"replay": self.replay, "split": self.changes.get("split", self.split)}
        if given := [name for name, value in chosen.items() if value is not None]:
            raise UserError(f"{given[0]} has no effect on statistics of real videos; leave it out, or give the videos")

    def open_model(self, model: Model) -> tuple[VideoModel, Path | None]:
        """Return a model and its file, if it has one."""
        if isinstance(model, VideoModel):
            return model, model.path
        return load(model, as_device(self.device), allow=self.allow), Path(model)


USUAL = EvalSettings()


def evaluate(
    real: Videos | Statistics | None,
    fake: Videos | Model,
    protocol: str | EvalProtocol = CLIPS,
    *,
    metrics: Sequence[str] | None = None,
    num: int | None = None,
    allow_fewer: bool = False,
    features: str | None = None,
    infill: Model | None = None,
    sampling: Sampling | None = None,
    settings: EvalSettings = USUAL,
) -> Result:
    """Return the scores of generated videos by a protocol, with all that they depend on.

    Args:
        real: the real videos, or statistics of them; None if no metric of the protocol looks at them.
        metrics: only these of the protocol's.
        num: measure so many clips of each, fewer than the protocol takes. Renames the metric.
        allow_fewer: if there are fewer clips, measure those. Renames the metric too.
        features: "random", which needs no weights and is not comparable, or the name of an extractor.
        infill: the model that fills gaps in clips longer than the window of the model `fake`.
        sampling: how the model `fake` samples.
    """
    with process_group():
        chosen = settings.protocol(protocol, features)
        options, reading = settings.scores(chosen, metrics), settings.measuring(num, allow_fewer)
        if isinstance(real, str | Path) and Path(real).suffix == ".safetensors":
            real = read_statistics(real)
        known = real if isinstance(real, Statistics) else None
        if known is not None:
            settings.check_on_statistics()
        source = None if isinstance(real, Statistics) else settings.open_real(real, chosen)
        fake_side = _open_fake(fake, chosen, sampling, infill, settings)
        network = settings.extractor(chosen)
        real_side = source if known is None else known.side(chosen, network, options)
        return measure_protocol(chosen, real_side, fake_side, network, options, reading)


def _open_fake(
    fake: Videos | Model, protocol: EvalProtocol, sampling: Sampling | None, infill: Model | None, settings: EvalSettings
) -> Source | ModelSource:
    if not is_model(fake):
        assert not isinstance(fake, VideoModel)
        refuse_sampling(sampling, infill)
        return settings.open(fake, protocol)
    model, path = settings.open_model(fake)
    filler, filler_path = (None, None) if infill is None else settings.open_model(infill)
    source = ModelSource(origin_of(model, filler, path, filler_path), model, sampling or Sampling(), filler)
    source.check(protocol)
    return source


def is_model(videos: Videos | Model) -> TypeGuard[Model]:
    """Return whether videos are to be sampled from a model."""
    return isinstance(videos, VideoModel) or (isinstance(videos, str | Path) and Path(videos).suffix == ".safetensors")


def refuse_sampling(*options: object) -> None:
    """Refuse options of a model if there is none."""
    if any(option is not None for option in options):
        raise UserError("sampling has no effect on videos that exist already; leave it out, or give a model")


def fvd(
    a: Videos,
    b: Videos,
    *,
    protocol: str | EvalProtocol = CLIPS,
    features: str | None = None,
    settings: EvalSettings = USUAL,
) -> float:
    """Return the Fréchet video distance of two sets of videos: one run of a protocol, on as many clips as there are."""
    once = replace(settings, changes={"runs": 1, **settings.changes})
    found = evaluate(a, b, protocol, metrics=["fvd"], allow_fewer=True, features=features, settings=once)
    return found.values["fvd"].value


def features(
    videos: Videos,
    extractor: str = "i3d",
    *,
    settings: EvalSettings = USUAL,
) -> np.ndarray:
    """Return features (n, d) of whole videos, a row each; the extractor alone resizes frames.

    Args:
        extractor: its name, or "random", the stand-in of `i3d` without weights, comparable with nothing but itself.
    """
    require(TEXT, extractor=extractor)
    with process_group():
        import_packages(settings.allow)
        name = random_extractor("fvd") if extractor == "random" else extractor_name(extractor, settings.allow)
        network = settings.network(name)
        source = open_source(videos, split="train+test", quantise="round", allow=settings.allow)
        share = Process.this().share(len(source.lengths))
        if not network.is_comparable:
            logger.warning("features are those of %s: they can be compared with nothing but themselves", network.name)
        found = extract(_whole_videos(source, share), network, total=len(share), what="videos")
        return np.concatenate(gather(found))


def _whole_videos(source: Source, numbers: range) -> Iterator[Tensor]:
    return (torch.from_numpy(np.array(source.read(number, range(source.lengths[number]))))[None] for number in numbers)
