"""A measurement of long videos: their curves, the distances of their chunks to the real clips of a protocol, FVD128.

Letters: n videos, k chunks, d features, r runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from lvdm.evaluation.long.report import DistanceOverTime, LongVideoReport, distance_over_time, slope
from lvdm.evaluation.long.video_clips import VideoClips, chunks
from lvdm.evaluation.long.videos import LongSource, watch
from lvdm.evaluation.measure import RealSide, Settings, choose_real, facts_of, measure_real
from lvdm.evaluation.metrics.scores import ScoreOptions, distance_of, over_runs, scores
from lvdm.evaluation.protocols.manifest import Manifest
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.results.result import NOT_COMPARABLE, FakeSource, Result, Value, now, package_versions
from lvdm.evaluation.sources.videos import Source
from lvdm.models.features.extractors import Extractor
from lvdm.processes import Process, gather, machine
from lvdm.types import UserError


@dataclass(frozen=True)
class AgainstReal:
    """All that one protocol needs to look at long videos: at every clip of each, one behind the other, or at the first alone."""

    protocol: EvalProtocol
    real: Source
    extractor: Extractor
    options: ScoreOptions
    settings: Settings
    is_over_time: bool = True

    @property
    def step(self) -> int:
        """Frames from one chunk to the next."""
        return self.protocol.frames * self.protocol.fake_stride

    def clips(self, frames: int) -> VideoClips:
        """Of a video of so many frames."""
        found = chunks(frames, self.protocol)
        return VideoClips(self.protocol, found if self.is_over_time else found[:1])

    def scores(self, real: RealSide, clips: np.ndarray) -> dict[str, Value]:
        """Of features (n, d) of a clip of every video."""
        return scores(self.protocol, real.features, [clips] * len(real.features), self.options)


@dataclass(frozen=True)
class Scored:
    """What one protocol found, and the real clips that it took."""

    result: Result
    manifest: Manifest


@dataclass(frozen=True)
class LongMeasurement:
    """Of long videos: what they are and how a model made them, their curves, and what protocols found, where there were any."""

    fake: FakeSource
    plan: dict[str, Any] | None
    lengths: Sequence[int]
    report: LongVideoReport
    over_time: Scored | None = None
    first_frames: Scored | None = None  # FVD128

    @property
    def scored(self) -> list[Scored]:
        return [one for one in (self.over_time, self.first_frames) if one is not None]

    @property
    def notes(self) -> list[str]:
        """What a reader must know."""
        shortest, longest = min(self.lengths), max(self.lengths)
        told = [warning for one in self.scored for warning in one.result.warnings]
        if shortest < longest:
            distances = f"; distances are of the first {shortest}, which all have" if self.scored else ""
            told.append(f"videos of {shortest} to {longest} frames{distances}; each curve is of a whole video")
        return list(dict.fromkeys(told))

    def as_dict(self) -> dict[str, Any]:
        """A result that `compare` reads where there were real videos, with all that was seen over time."""
        alone = {
            "fake": asdict(self.fake),
            "machine": machine() | {"processes": Process.this().count},
            "packages": package_versions(),
            "date": now(),
        }
        over_time = self.report.over_time
        seen = {
            "videos": len(self.lengths),
            "frames": {"shortest": min(self.lengths), "longest": max(self.lengths)},
            "sampling": self.plan,
            "summary": {name: asdict(told) for name, told in self.report.summary().items()},
            "over_time": None if over_time is None else _over_time(over_time),
            "first_frames": None if self.first_frames is None else self.first_frames.result.as_dict(),
            "notes": self.notes,
        }
        return (alone if self.over_time is None else self.over_time.result.as_dict()) | {"long": seen}


def _over_time(found: DistanceOverTime) -> dict[str, Any]:
    runs = {name: {"mean": values.mean(axis=0).tolist(), "runs": values.tolist()} for name, values in found.runs.items()}
    return {"chunk": found.chunk, "frame": found.starts().tolist(), **runs}


def measure_long(fake: LongSource, judges: Sequence[AgainstReal]) -> LongMeasurement:
    """By no protocol, by one over time, or by that and one of the first frames. Every process takes its share and comes to the
    same result."""
    frames = min(fake.lengths)
    for judge in judges:
        if frames < judge.step:
            name = fake.name_of(list(fake.lengths).index(frames))
            what = f"{name} has {frames} frames, fewer than the {judge.step} of a clip of {judge.protocol.name}"
            raise UserError(f"{what}; give longer videos, or leave it out")
        fewest = min(len(fake.lengths), choose_real(judge.protocol, judge.real, judge.settings)[1])
        judge.options.check_counts(judge.protocol, fewest, judge.extractor.dim)
    looked_at = [each.clips(frames) for each in judges]
    of_real = [measure_real(each.protocol, each.real, each.extractor, each.settings) for each in judges]
    watched = watch(fake, looked_at, [each.extractor for each in judges])
    sets = [np.stack([one.features[i] for one in watched.values()], axis=1) for i in range(len(judges))]  # (k, n, d)
    scored, over_time = [], None
    for judge, real, features in zip(judges, of_real, sets, strict=True):
        if judge.is_over_time:
            distances = _distances(judge, real, features)
            scored.append(_scored(judge, real, _ends(judge, real, features) | _slopes(judge, distances), fake, frames))
            over_time = _told(judge, scored[-1].result, distances)
        else:
            scored.append(_scored(judge, real, judge.scores(real, features[0]), fake, None))
    report = LongVideoReport({name: one.curves for name, one in watched.items()}, over_time)
    return LongMeasurement(fake.facts(), fake.plan(), fake.lengths, report, *scored)


def _distances(by: AgainstReal, real: RealSide, sets: np.ndarray) -> dict[str, np.ndarray]:
    """(r, k) by metric: each process measures its part of the chunks (k, n, d)."""
    share = Process.this().share(len(sets))
    mine = [sets[chunk] for chunk in share]
    total = len(by.options.metrics) * len(real.features) * len(mine)
    with tqdm(total=total, desc="distances", unit="set", delay=2.0, disable=Process.this().rank > 0) as bar:

        def measured(metric: str) -> np.ndarray:
            distance = distance_of(metric, by.protocol)

            def counted(x: np.ndarray, y: np.ndarray) -> float:
                bar.update()
                return distance(x, y)

            return distance_over_time(counted, real.features, mine)

        found = {metric: measured(metric) for metric in by.options.metrics}
    parts = gather(found)
    return {metric: np.concatenate([part[metric] for part in parts], axis=1) for metric in found}


def _ends(by: AgainstReal, real: RealSide, sets: np.ndarray) -> dict[str, Value]:
    """Of the first and the last chunk, with all that was asked for."""
    ends = {"first": sets[0], "last": sets[-1]}
    return {f"{name}_{end}": value for end, clips in ends.items() for name, value in by.scores(real, clips).items()}


def _slopes(by: AgainstReal, distances: Mapping[str, np.ndarray]) -> dict[str, Value]:
    """One chunk alone has none."""
    values = {}
    for metric, runs in distances.items():
        lines = [slope(run, by.step * np.arange(len(run))).per_100_frames for run in runs]
        if None not in lines:
            values[f"{metric}_per_100_frames"] = over_runs(lines)
    return values


def _scored(by: AgainstReal, real: RealSide, values: dict[str, Value], fake: LongSource, video_frames: int | None) -> Scored:
    result = Result(
        protocol=by.protocol,
        values=values,
        extractor=facts_of(by.extractor),
        num_real=real.num_clips,
        num_fake=len(fake.lengths),
        fake=fake.facts(),
        real=real.source,
        video_frames=video_frames,
        machine=machine() | {"processes": Process.this().count},
    )
    return Scored(result, real.manifest)


def _told(by: AgainstReal, result: Result, distances: Mapping[str, np.ndarray]) -> DistanceOverTime:
    """Under the names that they may be told by."""
    random = "" if by.extractor.is_comparable else f", random features: {NOT_COMPARABLE}"
    runs = {f"{metric}{result.suffix}": values for metric, values in distances.items()}
    return DistanceOverTime(by.step, runs, f", {by.protocol.name}{random}")
