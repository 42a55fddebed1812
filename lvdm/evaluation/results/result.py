"""The result of a measurement: every number with all that it depends on, as a JSON file that is checked when it is read.

A number keeps the metric's plain name only if it was measured on as many clips as its protocol takes. Measured on fewer, `fvd`
is called `fvd_n512` (512 real and 512 generated clips, or 512 generated ones if none are real) or
`fvd_real512_fake2048`, so that it is never taken for the other.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lvdm.evaluation.metrics.metric import METRICS
from lvdm.evaluation.protocols.manifest import Manifest
from lvdm.evaluation.protocols.named import PROTOCOLS, read_protocol
from lvdm.evaluation.protocols.protocol import EvalProtocol, differences
from lvdm.evaluation.reconstruction import LEAST_SIDE
from lvdm.evaluation.results.provenance import ExtractorFacts, FakeSource, Prompts, RealSource, now, package_versions
from lvdm.evaluation.results.records import read_whole, record, write_contents
from lvdm.evaluation.sources.splits import WHOLE
from lvdm.rules import PATH, require
from lvdm.types import UserError

FORMAT = 1
NOT_COMPARABLE = "not comparable"
PLAIN = ("num_real", "num_fake", "networks", "video_frames", "machine", "packages", "date")  # fields that a file has as they are
LATER = ("scoring",)  # those that files of earlier versions lack
SUFFIX = re.compile(r"_(n\d+|real\d+_fake\d+)$")


@dataclass(frozen=True)
class Value:
    """One number, with its spread over `over` ("runs", "splits", "clips", "videos") and an interval of this level, if they were
    measured."""

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
class Result:
    """Values by plain names, such as "fvd", "is", "is_whole" and "fvd_infinite", and their provenance."""

    protocol: EvalProtocol | None  # None for videos of prompts, all of whose frames are measured
    values: dict[str, Value]
    extractor: ExtractorFacts
    num_real: int
    num_fake: int
    fake: FakeSource
    real: RealSource | None = None  # None if no metric looks at real videos
    networks: dict[str, str] = field(default_factory=dict)  # file and sha256 of other networks than the extractor
    video_frames: int | None = None  # of each generated video, if it is measured over its whole length
    machine: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=package_versions)
    date: str = field(default_factory=now)
    prompts: Prompts | None = None
    scoring: dict[str, Any] = field(default_factory=dict)  # settings of intervals and of extrapolation
    manifest: Manifest | None = field(default=None, compare=False, repr=False)  # of the real clips; a file of its own
    generated: Manifest | None = field(default=None, compare=False, repr=False)  # of the generated clips, likewise

    def __post_init__(self) -> None:
        assert (self.protocol is None) == (self.prompts is not None), "clips have a protocol, videos of prompts have prompts"
        if self.protocol is None:
            return
        strange = [name for name in self.values if not self._is_plain(name) or SUFFIX.search(name)]
        assert not strange, f"{strange} are no plain names of metrics of {self.protocol.name}"
        assert self.num_real <= self.protocol.num_real and self.num_fake <= self.protocol.num_fake, "more than the protocol takes"
        assert (self.real is not None) == self.protocol.uses_real, "real videos belong to metrics that look at them"

    def _is_plain(self, name: str) -> bool:
        assert self.protocol is not None
        if self.fake.kind == "reconstruction":
            return name in (*LEAST_SIDE, *(f"r_{metric}" for metric in self.protocol.metrics))
        if self.fake.kind in ("continuation", "infilling") and name.removesuffix("_best") in LEAST_SIDE:
            return True
        return name.split("_")[0] in self.protocol.metrics

    @property
    def is_comparable(self) -> bool:
        """Return whether all numbers can be compared with those of others."""
        return all(self.can_compare(name) for name in self.values)

    def can_compare(self, name: str) -> bool:
        """Return whether the number of this plain name can be compared with those of others; some need no extractor."""
        metric = METRICS.get(name.removeprefix("r_").split("_")[0])
        is_of_network = name.removesuffix("_best") not in LEAST_SIDE
        return not is_of_network or (self.extractor.is_comparable and (metric is None or metric.is_comparable))

    @property
    def has_fewer_clips(self) -> bool:
        """Return whether there were fewer clips than the protocol takes."""
        taken = (self.num_real, self.num_fake)
        return self.protocol is not None and taken != (self.protocol.num_real, self.protocol.num_fake)

    @property
    def suffix(self) -> str:
        """Return what every name gets if there were fewer clips than the protocol takes."""
        if self.protocol is None or not self.has_fewer_clips:
            return ""
        is_one_number = not self.protocol.uses_real or self.num_real == self.num_fake
        return f"_n{self.num_fake}" if is_one_number else f"_real{self.num_real}_fake{self.num_fake}"

    @property
    def metrics(self) -> dict[str, Value]:
        """Return the values under the names by which they may be published."""
        return {f"{name}{self.suffix}": value for name, value in self.values.items()}

    @property
    def warnings(self) -> list[str]:
        """Return what a reader must know before the numbers are believed."""
        if self.protocol is None:
            return []
        found, base = [], PROTOCOLS.get(self.protocol.based_on)
        is_reconstruction = self.fake.kind == "reconstruction"
        if is_reconstruction and not any(name.startswith("r_") for name in self.values):
            found.append(f"{' and '.join(f'R-{name.upper()}' for name in self.protocol.metrics)} not measured: no network")
        if not self.extractor.is_comparable:
            what = "R-FVD" if is_reconstruction else "every number"
            weights = "random weights" if self.extractor.sha256 is None else "weights of your own"
            found.append(f"{self.extractor.name} has {weights}: {what} is {NOT_COMPARABLE} with any other network's")
        if base is not None and base.name != self.protocol.name:
            changes = differences(base, replace(self.protocol, name=base.name))
            found.append(f"custom protocol, which differs from {base.name} in {'; '.join(changes)}")
        if self.real is not None and self.real.split == WHOLE:
            found.append(f"the real videos are a {WHOLE}, which does not say whether it is a train or a test part")
        if self.has_fewer_clips:
            made = "reconstructed" if is_reconstruction else "generated"
            wanted = f"{self.protocol.num_real} real and {self.protocol.num_fake} {made}"
            found.append(f"{self.num_real} real and {self.num_fake} {made} clips where {self.protocol.name} takes {wanted}")
        fewest = min(self.num_real, self.num_fake)
        of_covariance = [METRICS[metric] for metric in self.protocol.metrics if METRICS[metric].needs_covariance]
        if any(fewest * (self.protocol.frames if metric.of_frames else 1) <= self.extractor.dim for metric in of_covariance):
            found.append(f"{fewest} clips for {self.extractor.dim} features: covariance singular, strongly biased upwards")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the result's file."""
        labels = [{} if self.can_compare(name) else {"label": NOT_COMPARABLE} for name in self.values]
        metrics = {name: label | asdict(value) for label, (name, value) in zip(labels, self.metrics.items(), strict=True)}
        if self.protocol is None:
            return self._as_text_result(metrics)
        return {
            "lvdm_result": FORMAT,
            "metrics": metrics,
            "warnings": self.warnings,
            "protocol": self.protocol.as_dict(),
            "extractor": asdict(self.extractor),
            "real": None if self.real is None else asdict(self.real),
            "fake": asdict(self.fake),
            **{key: getattr(self, key) for key in (*PLAIN, *LATER)},
        }

    def _as_text_result(self, metrics: dict[str, Any]) -> dict[str, Any]:
        assert self.prompts is not None
        return {
            "lvdm_text_result": FORMAT,
            "metrics": metrics,
            "network": asdict(self.extractor),
            "num_videos": self.num_fake,
            "frames": self.prompts.frames,
            "prompts_sha256": self.prompts.sha256,
            "fake": asdict(self.fake),
            **{key: getattr(self, key) for key in ("machine", "packages", "date", *LATER)},
        }

    def save(self, path: str | Path) -> None:
        """Write the result as JSON and, next to it, the manifests of its real and generated clips: all or none."""
        require(PATH, path=path)
        path, content = Path(path), json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"
        manifests = ((self.manifest, ".manifest.jsonl"), (self.generated, ".generated.jsonl"))
        others = [(path.with_suffix(suffix), manifest.text()) for manifest, suffix in manifests if manifest is not None]
        write_contents([(path, content), *others])


def read_result(path: str | Path) -> Result:
    """Return a result that `Result.save` wrote; a file that was changed since so that it contradicts itself is refused."""
    try:
        content = json.loads(read_whole(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON ({error}); give the file of a result") from error
    kinds = {"lvdm_result": _of_clips, "lvdm_text_result": _of_prompts}
    kind = next((key for key in kinds if isinstance(content, dict) and content.get(key) == FORMAT), None)
    if kind is None:
        raise UserError(f"{path} is no result that lvdm wrote in format {FORMAT}; give the file that an evaluation made")
    try:
        result = kinds[kind](content, str(path))
    except (KeyError, AssertionError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is a damaged result ({error}); measure again") from error
    if list(content["metrics"]) != list(result.metrics):
        names = f"{', '.join(content['metrics'])} and not {', '.join(result.metrics)}"
        raise UserError(f"{path} calls its numbers {names}, as its counts would have it; it was changed by hand: measure again")
    return result


def _of_clips(content: dict[str, Any], path: str) -> Result:
    parts = {
        "protocol": read_protocol(content["protocol"]),
        "extractor": record(ExtractorFacts, content["extractor"], f"{path}: extractor"),
        "fake": record(FakeSource, content["fake"], f"{path}: fake"),
        "real": None if content["real"] is None else record(RealSource, content["real"], f"{path}: real"),
        **{key: content[key] for key in PLAIN},
        **{key: content[key] for key in LATER if key in content},
    }
    return Result(values=_values(content, path, Result(values={}, **parts).suffix), **parts)


def _of_prompts(content: dict[str, Any], path: str) -> Result:
    return Result(
        protocol=None,
        values=_values(content, path, ""),
        extractor=record(ExtractorFacts, content["network"], f"{path}: network"),
        num_real=0,
        num_fake=content["num_videos"],
        fake=record(FakeSource, content["fake"], f"{path}: fake"),
        prompts=Prompts(content["prompts_sha256"], tuple(content["frames"])),
        **{key: content[key] for key in ("machine", "packages", "date")},
        **{key: content[key] for key in LATER if key in content},
    )


def _values(content: dict[str, Any], path: str, suffix: str) -> dict[str, Value]:
    """Return the values under their plain names."""
    values = {}
    for name, value in content["metrics"].items():
        plain = {key: part for key, part in value.items() if key != "label"}
        values[name.removesuffix(suffix) if suffix else name] = record(Value, plain, f"{path}: {name}")
    return values
