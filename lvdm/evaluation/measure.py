"""Measure a protocol: the clips of both sources, their features, the scores and all they depend on, in one result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lvdm.evaluation.feature_cache import cached
from lvdm.evaluation.features import Measured, measure
from lvdm.evaluation.metrics.frechet import POINTS, SMALLEST, Moments
from lvdm.evaluation.metrics.scores import LEVEL, ScoreOptions, scores
from lvdm.evaluation.protocols.clip_choice import Clip, Side, choose_clips, most_clips
from lvdm.evaluation.protocols.manifest import Manifest, ManifestClip, check_clip, measured, read_manifest
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.results.provenance import ExtractorFacts, FakeSource, RealSource
from lvdm.evaluation.results.result import Result
from lvdm.evaluation.sources.model import ModelSource
from lvdm.evaluation.sources.splits import by_base_name
from lvdm.evaluation.sources.stored import fake_files, stored_as
from lvdm.evaluation.sources.videos import Source
from lvdm.models.features.extractors import Extractor
from lvdm.processes import machine
from lvdm.types import UserError

LEAST = 2  # clips of which there is a covariance, or a mean of pairs


@dataclass(frozen=True)
class Settings:
    """Settings of a measurement. Only `num`, `allow_fewer` and `replay` change its numbers.

    Args:
        batch_size: clips that are read at once.
        workers: processes that read.
        num: clips of each that are measured; None: as many as the protocol takes.
        allow_fewer: whether sources may have fewer, which are measured then.
        replay: the manifest whose real clips are taken.
        is_cached: whether features of real clips are cached.
    """

    batch_size: int = 8
    workers: int = 0
    num: int | None = None
    allow_fewer: bool = False
    replay: Path | None = None
    is_cached: bool = True

    def __post_init__(self) -> None:
        if self.num is not None and self.num < LEAST:
            raise UserError(f"{self.num} clips have no score; give {LEAST} or more, or leave the number out")


@dataclass(frozen=True)
class RealSide:
    """The real clips of a protocol, measured; one model or several are compared with them."""

    source: RealSource
    manifest: Manifest
    features: list[np.ndarray]  # of every run
    num_clips: int  # of a run


@dataclass(frozen=True)
class KnownSide:
    """The real clips of a protocol, of which only the moments are known."""

    source: RealSource
    features: Sequence[Moments]  # of every run
    num_clips: int  # of a run


def measure_protocol(
    protocol: EvalProtocol,
    real: Source | KnownSide | None,
    fake: Source | ModelSource,
    extractor: Extractor,
    options: ScoreOptions,
    settings: Settings,
) -> Result:
    """Return the result of both sources; every process takes its share and returns the same."""
    if real is None or isinstance(real, KnownSide):
        check_counts(protocol, None, fake, options, extractor, settings)
        return measure_fake(protocol, real, fake, extractor, options, settings)
    check_counts(protocol, real, fake, options, extractor, settings)
    side = measure_real(protocol, real, extractor, settings)
    return replace(measure_fake(protocol, side, fake, extractor, options, settings), manifest=side.manifest)


def measure_real(protocol: EvalProtocol, real: Source, extractor: Extractor, settings: Settings) -> RealSide:
    """Measure the first half, which is the same for every model; the pixels of a replay are checked."""
    runs, count = choose_real(protocol, real, settings)
    found = [_measure_real(real, clips, protocol, extractor, settings) for clips in runs]
    manifest = _manifest(protocol, real, runs, found)
    if settings.replay is not None:
        _check_replay(read_manifest(settings.replay), manifest)
    measured_videos = [clip.video for clips in runs for clip in clips]
    source = RealSource(real.name, real.fingerprint(), manifest.sha256(), real.split, stored_as(real, measured_videos))
    return RealSide(source, manifest, [one.features for one in found], count)


def measure_fake(
    protocol: EvalProtocol,
    real: RealSide | KnownSide | None,
    fake: Source | ModelSource,
    extractor: Extractor,
    options: ScoreOptions,
    settings: Settings,
) -> Result:
    """Measure the second half: generated clips against the real ones, if there are any."""
    fake_clips, num_fake = _fake_clips(protocol, fake, settings)
    found: dict[tuple[Clip, ...], Measured] = {}
    for clips in fake_clips:
        if tuple(clips) not in found:  # runs that keep the generated clips measure them once
            found[tuple(clips)] = _measure_fake(fake, clips, protocol, extractor, settings)
    of_fake = [found[tuple(clips)].features for clips in fake_clips]
    source, generated = _facts_of_fake(protocol, fake, found)
    return Result(
        protocol=protocol,
        values=scores(protocol, [] if real is None else real.features, of_fake, options),
        extractor=facts_of(extractor),
        num_real=0 if real is None else real.num_clips,
        num_fake=num_fake,
        fake=source,
        real=None if real is None else real.source,
        machine=machine(getattr(extractor, "device", None)),
        scoring=scoring(options),
        generated=generated,
    )


def _facts_of_fake(
    protocol: EvalProtocol, fake: Source | ModelSource, found: Mapping[tuple[Clip, ...], Measured]
) -> tuple[FakeSource, Manifest]:
    """Return what a result says of the generated side, and its clips with their hashes."""
    if isinstance(fake, ModelSource):
        source, names = fake.facts(protocol), None
    else:
        source, names = fake_files(fake, [clip.video for clips in found for clip in clips]), fake.names
    lines = [
        measured(clip, f"video {clip.video}" if names is None else names[clip.video], pixels, protocol, of="fake", run=run)
        for run, (clips, one) in enumerate(found.items())
        for clip, pixels in zip(clips, one.hashes, strict=True)
    ]
    generated = Manifest(protocol, source.sha256, tuple(lines))
    return replace(source, clips_sha256=generated.sha256()), generated


def scoring(options: ScoreOptions) -> dict[str, Any]:
    """Return the settings of intervals and of extrapolation, each None if there is none."""
    bootstrap = {"resamples": options.resamples, "level": LEVEL, "seed": 0} if options.resamples else None
    line = {"points": POINTS, "smallest": SMALLEST} if options.extrapolate else None
    return {"bootstrap": bootstrap, "extrapolate": line}


def facts_of(extractor: Extractor) -> ExtractorFacts:
    """Return what a result says of an extractor."""
    return ExtractorFacts(**{key: getattr(extractor, key) for key in ("name", "dim", "is_comparable", "weights", "sha256")})


# Clips -------------------------------------------------------------------------------------------------------------------


def check_counts(
    protocol: EvalProtocol,
    real: Source | None,
    fake: Source | ModelSource,
    options: ScoreOptions,
    extractor: Extractor,
    settings: Settings,
) -> None:
    """Refuse too few clips before anything is measured."""
    most = max(protocol.num_real, protocol.num_fake)
    if settings.num is not None and settings.num > most and not settings.allow_fewer:
        raise UserError(f"num is {settings.num}, and {protocol.name} takes {most} clips; give no more, or change its numbers")
    of_real = [] if real is None else [choose_real(protocol, real, settings)[1]]
    counts = [*of_real, _fake_clips(protocol, fake, settings)[1]]
    options.check_counts(protocol, min(counts), extractor.dim)


def _count(wanted: int, most: int, settings: Settings) -> int:
    """Return how many clips are taken; `choose_clips` refuses too many."""
    wanted = min(wanted, settings.num or wanted)
    return min(wanted, most) if settings.allow_fewer and most >= LEAST else wanted


def choose_real(protocol: EvalProtocol, real: Source, settings: Settings) -> tuple[list[list[Clip]], int]:
    """Return the real clips of every run, and how many a run has."""
    if settings.replay is not None:
        replayed = read_manifest(settings.replay)
        replayed.check_protocol(protocol)
        runs = [_found_again(replayed.of_run(run), real) for run in range(protocol.runs)]
        return runs, _replayed_count([len(clips) for clips in runs], protocol, settings)
    by_name = None if real.kind == "array" else by_base_name(real.names)
    return _chosen(real.lengths, protocol, "real", protocol.num_real, settings, by_name)


def _fake_clips(protocol: EvalProtocol, fake: Source | ModelSource, settings: Settings) -> tuple[list[list[Clip]], int]:
    runs = 1 if protocol.uses_real else protocol.runs
    if not isinstance(fake, ModelSource):
        return _chosen(fake.lengths, protocol, "fake", protocol.num_fake, settings)
    if settings.allow_fewer and settings.num is None:
        raise UserError("a model samples any number of clips, so say how many; allow fewer by a number, such as 256")
    lengths = fake.lengths(_count(protocol.num_fake, protocol.num_fake, settings) * runs, protocol)
    return _chosen(lengths, protocol, "fake", protocol.num_fake, settings)


def _chosen(
    lengths: Sequence[int], protocol: EvalProtocol, of: Side, wanted: int, settings: Settings, by_name: list[int] | None = None
) -> tuple[list[list[Clip]], int]:
    count = _count(wanted, most_clips(lengths, protocol, of=of), settings)
    return [choose_clips(lengths, protocol, of=of, count=count, run=run, by_name=by_name) for run in range(protocol.runs)], count


def _replayed_count(counts: Sequence[int], protocol: EvalProtocol, settings: Settings) -> int:
    """Return the clips of each run."""
    held = " and ".join(map(str, sorted(set(counts))))
    counted = f"the manifest holds {held} clips a run, and {protocol.name} takes {protocol.num_real}"
    if len(set(counts)) > 1 or not LEAST <= counts[0] <= protocol.num_real:
        raise UserError(f"{counted}; it was changed by hand: measure again")
    if counts[0] < protocol.num_real and not settings.allow_fewer and settings.num != counts[0]:
        raise UserError(f"{counted}; allow fewer, which renames the metric")
    return counts[0]


def _found_again(lines: Sequence[ManifestClip], real: Source) -> list[Clip]:
    numbers = {name: number for number, name in enumerate(real.names)}
    for line in lines:
        if line.file not in numbers:
            raise UserError(f"{real.name} has no {line.file}, which the manifest names; give the data set that it was made of")
        if line.frame_numbers()[-1] >= (frames := real.lengths[numbers[line.file]]):
            last = line.frame_numbers()[-1]
            raise UserError(f"{line.file} has {frames} frames, and the manifest names frame {last}; the file has changed")
    return [Clip(numbers[line.file], line.start) for line in lines]


def _measure_real(
    real: Source, clips: Sequence[Clip], protocol: EvalProtocol, extractor: Extractor, settings: Settings
) -> Measured:
    def now() -> Measured:
        return measure(real, clips, protocol, "real", extractor, batch_size=settings.batch_size, workers=settings.workers)

    is_cached = settings.is_cached and settings.replay is None  # a replay looks at the pixels
    return cached(real, clips, protocol, extractor, now) if is_cached else now()


def _measure_fake(
    fake: Source | ModelSource, clips: Sequence[Clip], protocol: EvalProtocol, extractor: Extractor, settings: Settings
) -> Measured:
    if isinstance(fake, ModelSource):
        return fake.measure(clips, protocol, extractor)
    return measure(fake, clips, protocol, "fake", extractor, batch_size=settings.batch_size, workers=settings.workers)


def _manifest(
    protocol: EvalProtocol, real: Source, runs: Sequence[Sequence[Clip]], measured_runs: Sequence[Measured]
) -> Manifest:
    lines = [
        measured(clip, real.names[clip.video], pixels, protocol, run=run)
        for run, (clips, found) in enumerate(zip(runs, measured_runs, strict=True))
        for clip, pixels in zip(clips, found.hashes, strict=True)
    ]
    return Manifest(protocol, real.fingerprint(), tuple(lines))


def _check_replay(before: Manifest, now: Manifest) -> None:
    for run in range(before.protocol.runs):
        for earlier, line in zip(before.of_run(run), now.of_run(run), strict=True):
            check_clip(earlier, line.sha256)
