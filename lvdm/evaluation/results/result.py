"""The result of a measurement: every number with all that it depends on, as a JSON file that is checked when it is read.

A number keeps the metric's plain name only if it was measured on as many clips as its protocol takes. Measured on fewer, `fvd`
is told as `fvd_n512` (512 real and 512 generated clips, or 512 generated ones where none are real) or as
`fvd_real512_fake2048`, so that it is never taken for the other.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from lvdm.evaluation.protocols.named import PROTOCOLS, read_protocol
from lvdm.evaluation.protocols.protocol import FRECHET, EvalProtocol, differences
from lvdm.evaluation.results.records import read_whole, record, write_whole
from lvdm.types import UserError
from lvdm.version import __version__

FORMAT = 1
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "av", "decord")
NOT_COMPARABLE = "not comparable"
PLAIN = ("num_real", "num_fake", "networks", "video_frames", "machine", "packages", "date")  # fields that a file has as they are
SUFFIX = re.compile(r"_(n\d+|real\d+_fake\d+)$")
PIXEL_SCORES = ("psnr_clip", "psnr_frame", "ssim", "lpips_vgg", "lpips_alex")  # of reconstructions, beside "r_fvd" and its like


@dataclass(frozen=True)
class Value:
    """One number, with its spread over `over` ("runs", "splits", "clips", "videos") and an interval of this level where they
    were measured."""

    value: float
    std: float | None = None
    over: str | None = None
    interval: tuple[float, float] | None = None
    level: float | None = None

    def __post_init__(self) -> None:
        assert self.interval is None or len(self.interval) == 2, f"an interval of {self.interval}"
        numbers = (self.value, self.std, *(self.interval or ()))
        if not all(math.isfinite(number) for number in numbers if number is not None):
            raise UserError(
                f"a score came out as {self.value} (interval {self.interval}); look for clips without finite features"
            )
        assert (self.std is None) == (self.over is None), "a standard deviation says over what it is"
        assert (self.interval is None) == (self.level is None), "an interval says its level"


@dataclass(frozen=True)
class ExtractorFacts:
    """The network that turned clips into features."""

    name: str  # with every setting that changes numbers
    dim: int
    is_comparable: bool  # False: random weights, whose numbers mean nothing beside others
    weights: str | None = None  # the file
    sha256: str | None = None


@dataclass(frozen=True)
class RealSource:
    """The real videos: name, fingerprint, and the hash of the manifest of those that were measured."""

    name: str
    fingerprint: str
    manifest_sha256: str


@dataclass(frozen=True)
class FakeSource:
    """The measured videos: files ("videos", "array"), a "model" (its file) or a "run" (a model in training), which say how they
    were sampled, or a "reconstruction", which says whose codec."""

    kind: str
    name: str
    sha256: str  # of the folder's content, the array's or the model's file, a run's weights
    sampler: str | None = None
    steps: int | None = None
    eta: float | None = None
    guidance: float | None = None  # w of eps_c + w (eps_c - eps_u); 0 is off
    is_ema: bool | None = None  # averaged weights
    seed: int | None = None
    step: int | None = None  # of a run
    config_sha256: str | None = None  # of a run's resolved config

    def __post_init__(self) -> None:
        sampled = [self.sampler, self.steps, self.eta, self.guidance, self.is_ema, self.seed]
        assert self.kind in ("videos", "array", "model", "run", "reconstruction"), f"a source of kind {self.kind!r}"
        is_sampled, is_run = self.kind in ("model", "run"), self.kind == "run"
        assert {value is not None for value in sampled} == {is_sampled}, "a model, and only a model, says how it was sampled"
        in_run = {value is not None for value in (self.step, self.config_sha256)}
        assert in_run == {is_run}, "a run, and only a run, says its step and config"


def package_versions() -> dict[str, str]:
    """Of lvdm and of the packages that change numbers, those that are installed."""
    found = {"lvdm": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Result:
    """Values under their plain names ("fvd", "is", and beside them such as "is_whole", "fvd_infinite"), and their provenance."""

    protocol: EvalProtocol
    values: dict[str, Value]
    extractor: ExtractorFacts
    num_real: int
    num_fake: int
    fake: FakeSource
    real: RealSource | None = None  # None where no metric looks at real videos
    networks: dict[str, str] = field(default_factory=dict)  # file and sha256 of what measures beside the extractor
    video_frames: int | None = None  # of each generated video, where it is measured over its whole length
    machine: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=package_versions)
    date: str = field(default_factory=now)

    def __post_init__(self) -> None:
        strange = [name for name in self.values if not self._is_plain(name) or SUFFIX.search(name)]
        assert not strange, f"{strange} are no plain names of metrics of {self.protocol.name}"
        assert self.num_real <= self.protocol.num_real and self.num_fake <= self.protocol.num_fake, "more than the protocol takes"
        assert (self.real is not None) == self.protocol.uses_real, "real videos belong to metrics that look at them"

    def _is_plain(self, name: str) -> bool:
        if self.fake.kind == "reconstruction":
            return name in (*PIXEL_SCORES, *(f"r_{metric}" for metric in self.protocol.metrics))
        return name.split("_")[0] in self.protocol.metrics

    def is_comparable(self, name: str) -> bool:
        """Whether the number of this plain name means something beside those of others; some need no extractor."""
        return self.extractor.is_comparable or name in PIXEL_SCORES

    @property
    def has_fewer_clips(self) -> bool:
        return (self.num_real, self.num_fake) != (self.protocol.num_real, self.protocol.num_fake)

    @property
    def suffix(self) -> str:
        """What every name gets when there were fewer clips than the protocol takes."""
        if not self.has_fewer_clips:
            return ""
        is_one_number = not self.protocol.uses_real or self.num_real == self.num_fake
        return f"_n{self.num_fake}" if is_one_number else f"_real{self.num_real}_fake{self.num_fake}"

    @property
    def metrics(self) -> dict[str, Value]:
        """Values under the names by which they may be told."""
        return {f"{name}{self.suffix}": value for name, value in self.values.items()}

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before the numbers are believed."""
        told, base = [], PROTOCOLS.get(self.protocol.based_on)
        is_reconstruction = self.fake.kind == "reconstruction"
        if not self.extractor.is_comparable:
            what = "R-FVD" if is_reconstruction else "every number"
            told.append(f"{self.extractor.name} has random weights: {what} is {NOT_COMPARABLE} with any other network's")
        if base is not None and base.name != self.protocol.name:
            changes = differences(base, replace(self.protocol, name=base.name))
            told.append(f"custom protocol, which differs from {base.name} in {'; '.join(changes)}")
        if self.has_fewer_clips:
            made = "reconstructed" if is_reconstruction else "generated"
            asked = f"{self.protocol.num_real} real and {self.protocol.num_fake} {made}"
            told.append(f"{self.num_real} real and {self.num_fake} {made} clips where {self.protocol.name} takes {asked}")
        fewest = min(self.num_real, self.num_fake)
        if fewest <= self.extractor.dim and set(FRECHET) & set(self.protocol.metrics):
            told.append(f"{fewest} clips for {self.extractor.dim} features: covariance singular, strongly biased upwards")
        return told

    def as_dict(self) -> dict[str, Any]:
        labels = [{} if self.is_comparable(name) else {"label": NOT_COMPARABLE} for name in self.values]
        metrics = {name: label | asdict(value) for label, (name, value) in zip(labels, self.metrics.items(), strict=True)}
        parts = {f: getattr(self, f) for f in PLAIN}
        return {
            "lvdm_result": FORMAT,
            "metrics": metrics,
            "warnings": self.warnings,
            "protocol": self.protocol.as_dict(),
            "extractor": asdict(self.extractor),
            "real": None if self.real is None else asdict(self.real),
            "fake": asdict(self.fake),
            **parts,
        }


class Told(Protocol):
    """What a file of a result holds."""

    def as_dict(self) -> dict[str, Any]: ...


def write_result(path: str | Path, result: Told) -> None:
    """The whole file or nothing of it."""
    write_whole(path, json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n")


def read_result(path: str | Path) -> Result:
    """A result that `write_result` wrote; a file that was changed since so that it contradicts itself is refused."""
    try:
        said = json.loads(read_whole(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON ({error}); give the file of a result") from error
    if not isinstance(said, dict) or said.get("lvdm_result") != FORMAT:
        raise UserError(f"{path} is no result that lvdm wrote in format {FORMAT}; give the file that an evaluation made")
    try:
        result = _result(said, str(path))
    except (KeyError, AssertionError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is a damaged result ({error}); measure anew") from error
    if list(said["metrics"]) != list(result.metrics):
        names = f"{', '.join(said['metrics'])} and not {', '.join(result.metrics)}"
        raise UserError(f"{path} calls its numbers {names}, as its counts would have it; it was changed by hand: measure anew")
    return result


def _result(said: dict[str, Any], path: str) -> Result:
    parts = {
        "protocol": read_protocol(said["protocol"]),
        "extractor": record(ExtractorFacts, said["extractor"], f"{path}: extractor"),
        "fake": record(FakeSource, said["fake"], f"{path}: fake"),
        "real": None if said["real"] is None else record(RealSource, said["real"], f"{path}: real"),
        **{key: said[key] for key in PLAIN},
    }
    suffix = Result(values={}, **parts).suffix
    values = {}
    for name, value in said["metrics"].items():
        plain = {key: part for key, part in value.items() if key != "label"}
        values[name.removesuffix(suffix) if suffix else name] = record(Value, plain, f"{path}: {name}")
    return Result(values=values, **parts)
