"""Measure long videos: their curves, the distances of their chunks to the real clips of a protocol, FVD128.

Letters: n videos, k chunks, d features, r runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lvdm.evaluation.long.report import CHUNK, DistanceOverTime, LongVideoReport, distance_over_time, slope
from lvdm.evaluation.long.video_clips import VideoClips, chunks
from lvdm.evaluation.long.videos import LongSource, watch
from lvdm.evaluation.measure import RealSide, Settings, choose_real, facts_of, measure_real, scoring
from lvdm.evaluation.metrics.metric import METRICS
from lvdm.evaluation.metrics.scores import ScoreOptions, over_runs, scores
from lvdm.evaluation.protocols.manifest import write_manifest
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.results.provenance import FakeSource, now, package_versions
from lvdm.evaluation.results.records import write_content
from lvdm.evaluation.results.result import NOT_COMPARABLE, Result, Value
from lvdm.evaluation.sources.videos import Source
from lvdm.models.features.extractors import Extractor
from lvdm.processes import Process, gather, machine
from lvdm.types import UserError


@dataclass(frozen=True)
class Comparison:
    """One protocol by which long videos are compared with real clips: all clips of each video in turn, or the first alone."""

    protocol: EvalProtocol
    real: Source
    extractor: Extractor
    options: ScoreOptions
    settings: Settings
    is_over_time: bool = True

    @property
    def step(self) -> int:
        """Return the frames from one chunk to the next."""
        return self.protocol.frames * self.protocol.fake_stride

    def clips(self, frames: int) -> VideoClips:
        """Return the clips of a video of so many frames."""
        found = chunks(frames, self.protocol)
        return VideoClips(self.protocol, found if self.is_over_time else found[:1])

    def scores(self, real: RealSide, clips: np.ndarray) -> dict[str, Value]:
        """Return the scores of features (n, d) of a clip of every video."""
        return scores(self.protocol, real.features, [clips] * len(real.features), self.options)


@dataclass(frozen=True)
class LongMeasurement:
    """The measurement of long videos: what they are and how a model sampled them, their curves, and the results of protocols."""

    fake: FakeSource
    plan: dict[str, Any] | None
    lengths: Sequence[int]
    report: LongVideoReport
    over_time: Result | None = None
    first_frames: Result | None = None  # FVD128

    @property
    def notes(self) -> list[str]:
        """Return what a reader must know."""
        shortest, longest = min(self.lengths), max(self.lengths)
        results = [one for one in (self.over_time, self.first_frames) if one is not None]
        found = [warning for one in results for warning in one.warnings]
        if shortest < longest:
            distances = f"; distances are of the first {shortest}, which all have" if results else ""
            found.append(f"videos of {shortest} to {longest} frames{distances}; each curve is of a whole video")
        return list(dict.fromkeys(found))

    def as_dict(self) -> dict[str, Any]:
        """Return all that was measured over time; with real videos it is a result too, which `compare` reads."""
        alone = {
            "fake": asdict(self.fake),
            "machine": machine(),
            "packages": package_versions(),
            "date": now(),
        }
        over_time = self.report.over_time
        seen = {
            "videos": len(self.lengths),
            "frames": {"shortest": min(self.lengths), "longest": max(self.lengths)},
            "sampling": self.plan,
            "summary": {name: asdict(one) for name, one in self.report.summary().items()},
            "over_time": None if over_time is None else _over_time(over_time),
            "first_frames": None if self.first_frames is None else self.first_frames.as_dict(),
            "notes": self.notes,
        }
        return (alone if self.over_time is None else self.over_time.as_dict()) | {"long": seen}

    def save(self, folder: str | Path) -> list[Path]:
        """Write result.json, over_time.csv and over_time.png, with manifests and FVD128 if there are any; return the files."""
        folder = Path(folder)
        files = self.report.write(folder)
        result = folder / "result.json"
        write_content(result, json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n")
        if self.over_time is not None and self.over_time.manifest is not None:
            write_manifest(result.with_suffix(".manifest.jsonl"), self.over_time.manifest)
        if self.first_frames is not None and self.first_frames.protocol is not None:
            files.append(folder / f"{self.first_frames.protocol.based_on}.json")
            self.first_frames.save(files[-1])
        return [result, *files]

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """Return a row for each distance and each curve, the head first: its name, means, and slope."""
        chunk = self.report.over_time.chunk if self.report.over_time else CHUNK
        rows = [("", "mean", f"first {chunk} frames", f"last {chunk}", "per 100 frames")]
        for name, one in self.report.summary().items():
            steep = "" if one.per_100_frames is None else f"{one.per_100_frames:+.3g}"
            error = "" if one.standard_error is None else f" ± {one.standard_error:.2g}"
            rows.append((name, _number(one.mean), _number(one.first), _number(one.last), steep + error))
        if self.first_frames is not None and self.first_frames.protocol is not None:
            frames = self.first_frames.protocol.frames
            values = self.first_frames.metrics.items()
            rows += [(f"{name} of {frames} frames", _number(one.value), "", "", "") for name, one in values]
        return rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value if abs(value) > 1e-9 else 0:.4g}"  # rounding is no drift


def _over_time(found: DistanceOverTime) -> dict[str, Any]:
    runs = {name: {"mean": values.mean(axis=0).tolist(), "runs": values.tolist()} for name, values in found.runs.items()}
    return {"chunk": found.chunk, "frame": found.starts().tolist(), **runs}


def measure_long(fake: LongSource, comparisons: Sequence[Comparison]) -> LongMeasurement:
    """Measure by no protocol, by one over time, or by that and one of the first frames. Every process takes its share and returns
    the same."""
    frames = min(fake.lengths)
    for by in comparisons:
        if frames < by.step:
            name = fake.name_of(list(fake.lengths).index(frames))
            what = f"{name} has {frames} frames, fewer than the {by.step} of a clip of {by.protocol.name}"
            raise UserError(f"{what}; give longer videos, or leave it out")
        fewest = min(len(fake.lengths), choose_real(by.protocol, by.real, by.settings)[1])
        by.options.check_counts(by.protocol, fewest, by.extractor.dim)
    of_real = [measure_real(by.protocol, by.real, by.extractor, by.settings) for by in comparisons]
    watched = watch(fake, [by.clips(frames) for by in comparisons], [by.extractor for by in comparisons])
    sets = [np.stack([one.features[i] for one in watched.values()], axis=1) for i in range(len(comparisons))]  # (k, n, d)
    facts, results, over_time = fake.facts(), [], None
    for by, real, features in zip(comparisons, of_real, sets, strict=True):
        if by.is_over_time:
            distances = _distances(by, real, features)
            results.append(
                _result(by, real, _ends(by, real, features) | _slopes(by, distances), facts, len(fake.lengths), frames)
            )
            over_time = _distance_over_time(by, results[-1], distances)
        else:
            results.append(_result(by, real, by.scores(real, features[0]), facts, len(fake.lengths), None))
    report = LongVideoReport({name: one.curves for name, one in watched.items()}, over_time)
    return LongMeasurement(facts, fake.plan(), fake.lengths, report, *results)


def _distances(by: Comparison, real: RealSide, sets: np.ndarray) -> dict[str, np.ndarray]:
    """Return (r, k) by metric: each process measures its part of the chunks (k, n, d)."""
    share = Process.this().share(len(sets))
    mine = [sets[chunk] for chunk in share]
    total = len(by.options.metrics) * len(real.features) * len(mine)
    with tqdm(total=total, desc="distances", unit="set", delay=2.0, disable=Process.this().rank > 0) as bar:

        def measured(metric: str) -> np.ndarray:
            distance = METRICS[metric].under(by.protocol)

            def counted(x: np.ndarray, y: np.ndarray) -> float:
                bar.update()
                return distance(x, y)

            return distance_over_time(counted, real.features, mine)

        found = {metric: measured(metric) for metric in by.options.metrics}
    parts = gather(found)
    return {metric: np.concatenate([part[metric] for part in parts], axis=1) for metric in found}


def _ends(by: Comparison, real: RealSide, sets: np.ndarray) -> dict[str, Value]:
    """Return the scores of the first and the last chunk."""
    ends = {"first": sets[0], "last": sets[-1]}
    return {f"{name}_{end}": value for end, clips in ends.items() for name, value in by.scores(real, clips).items()}


def _slopes(by: Comparison, distances: Mapping[str, np.ndarray]) -> dict[str, Value]:
    """Return the slope of each distance, which one chunk alone does not have."""
    values = {}
    for metric, runs in distances.items():
        lines = [slope(run, by.step * np.arange(len(run))).per_100_frames for run in runs]
        known = [line for line in lines if line is not None]
        if len(known) == len(lines):
            values[f"{metric}_per_100_frames"] = over_runs(known)
    return values


def _result(
    by: Comparison, real: RealSide, values: dict[str, Value], fake: FakeSource, videos: int, video_frames: int | None
) -> Result:
    return Result(
        protocol=by.protocol,
        values=values,
        extractor=facts_of(by.extractor),
        num_real=real.num_clips,
        num_fake=videos,
        fake=fake,
        real=real.source,
        video_frames=video_frames,
        machine=machine(getattr(by.extractor, "device", None)),
        scoring=scoring(by.options),
        manifest=real.manifest,
    )


def _distance_over_time(by: Comparison, result: Result, distances: Mapping[str, np.ndarray]) -> DistanceOverTime:
    """Return the distances under the names by which they may be published."""
    random = "" if by.extractor.is_comparable else f", random features: {NOT_COMPARABLE}"
    runs = {f"{metric}{result.suffix}": values for metric, values in distances.items()}
    return DistanceOverTime(by.step, runs, f", {by.protocol.name}{random}")
