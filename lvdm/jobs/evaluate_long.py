"""Measure long videos over their length from Python, as `scripts/eval.py long` does: files, arrays, or a model's videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lvdm.evaluation.long.measure import Comparison, LongMeasurement, measure_long
from lvdm.evaluation.long.videos import ModelVideos, long_files
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.results.provenance import Origin
from lvdm.evaluation.sources.sampled import check_at_once, origin_of
from lvdm.evaluation.sources.videos import open_source
from lvdm.jobs.evaluate import CLIPS, USUAL, EvalSettings, Model, Videos, is_model, refuse_sampling
from lvdm.jobs.evaluate_rules import COUNT
from lvdm.processes import process_group
from lvdm.rules import require
from lvdm.sampling.long_pipeline import LongVideo, prepare_long_video
from lvdm.sampling.options import LongOptions
from lvdm.sampling.pipeline import VideoModel
from lvdm.types import UserError

FRAMES = 1000  # of a video that a model samples


def evaluate_long(
    fake: Videos | Model,
    real: Videos | None = None,
    protocol: str | EvalProtocol = CLIPS,
    *,
    first_frames: str | EvalProtocol | None = None,
    metrics: Sequence[str] | None = None,
    frames: int | None = None,
    num: int | None = None,
    fewer: int | None = None,
    features: str | None = None,
    infill: Model | None = None,
    options: LongOptions | None = None,
    seed: int = 0,
    sample_batch: int | None = None,
    settings: EvalSettings = USUAL,
) -> LongMeasurement:
    """Return the distances of each chunk of long videos to real clips, and the curves of their frames.

    Args:
        real: the real videos; without them only the curves are measured, by no network.
        first_frames: also by this protocol, on the first frames; one of 128 frames gives FVD128.
        frames: of each video: the first ones of files, by default all; of a model's video, by default 1000.
        num: videos, the first ones; by default as many as the protocol takes, or all.
        fewer: allow fewer videos and real clips than the protocols take, at most so many of each; 0 takes all there are.
        infill: the model that fills gaps; it may be `fake` itself.
        options, seed, sample_batch: how a model samples, and how many videos at once.
    """
    require(COUNT, num=num, fewer=fewer, frames=frames, sample_batch=sample_batch)
    with process_group():
        comparisons = [] if real is None else [_comparison(real, protocol, features, metrics, fewer, settings)]
        if real is not None and first_frames is not None:  # changes, metrics and replay are of the clips over time
            plain = replace(settings, changes={}, split=settings.named_split, replay=None)
            comparisons.append(replace(_comparison(real, first_frames, features, None, fewer, plain), is_over_time=False))
        protocols = [by.protocol for by in comparisons]
        if is_model(fake):
            count = _how_many(protocols, num=num, fewer=fewer, existing=None)
            check_at_once(sample_batch)
            made, origin = _long_video(fake, infill, replace(options or LongOptions(), frames=frames or FRAMES), settings)
            return measure_long(ModelVideos(origin, made, frames or FRAMES, count, seed, sample_batch), comparisons)
        assert not isinstance(fake, VideoModel)
        refuse_sampling(options, infill, sample_batch)
        how = {"quantise": protocols[0].quantise} if protocols else {}
        found = open_source(fake, split=settings.part, **how, allow=settings.allow)
        count = _how_many(protocols, num=num, fewer=fewer, existing=len(found.lengths))
        return measure_long(long_files(found, count, frames, workers=settings.workers), comparisons)


def _comparison(
    real: Videos,
    protocol: str | EvalProtocol,
    features: str | None,
    metrics: Sequence[str] | None,
    fewer: int | None,
    settings: EvalSettings,
) -> Comparison:
    chosen = settings.protocol(protocol, features)
    if not chosen.uses_real:
        raise UserError(f"{chosen.name} looks at no real videos, so it has no distance; take another protocol")
    if chosen.fake_clips != "first frames":
        raise UserError(f"fake_clips {chosen.fake_clips!r} has no effect, because all of each video is measured; leave it out")
    options = settings.scores(chosen, metrics)
    source = settings.open_real(real, chosen)
    assert source is not None, "every distance looks at real clips"
    return Comparison(chosen, source, settings.extractor(chosen), options, settings.measuring(fewer or None, fewer is not None))


def _long_video(fake: Model, infill: Model | None, options: LongOptions, settings: EvalSettings) -> tuple[LongVideo, Origin]:
    predict, path = settings.open_model(fake)
    filler, filler_path = None, None
    if infill is not None:
        is_same = infill is fake or _is_same_file(fake, infill)
        filler, filler_path = (predict, path) if is_same else settings.open_model(infill)
    return prepare_long_video(predict, filler, options), origin_of(predict, filler, path, filler_path)


def _is_same_file(a: Model, b: Model) -> bool:
    paths = [Path(model) for model in (a, b) if not isinstance(model, VideoModel)]
    return len(paths) == 2 and all(path.exists() for path in paths) and paths[0].samefile(paths[1])


def _how_many(protocols: Sequence[EvalProtocol], *, num: int | None, fewer: int | None, existing: int | None) -> int:
    """Return how many videos are measured: `num`, else as many as the protocols take, else all; a model has any number."""
    most = min((protocol.num_fake for protocol in protocols), default=None)
    if num is not None and not 1 <= num <= (most or num):
        raise UserError(f"num is {num}; give 1 or more" + (f", at most {most}, which the protocol takes" if most else ""))
    if num is not None and existing is not None and num > existing:
        raise UserError(f"num is {num}, but there are {existing} videos; give fewer, or more videos")
    if existing is None and num is None and (most is None or fewer == 0):
        raise UserError("num is missing, and a model samples any number of videos; give one such as 16")
    count = min(number for number in (num, fewer or None, most, existing) if number is not None)
    for protocol in protocols:
        if count < protocol.num_fake and fewer is None:
            what = f"{protocol.name} takes {protocol.num_fake} generated videos, not {count}"
            raise UserError(f"{what}; give more, or allow fewer, which renames the metric")
    if protocols and count < 2:
        raise UserError("a distance is one of sets, and 1 video is none; give more, or leave the real videos out")
    return count
