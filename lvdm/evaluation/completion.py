"""Continuations and infillings of real clips, measured against the truth: paired scores of the new frames, and their FVD.

A model is given the beginning of a clip, or both of its ends, and samples the rest several times. PSNR, SSIM and LPIPS compare
the new frames with those of the clip. The best sample of a clip says whether the truth is among what the model expects.
Letters: k samples of a clip, c channels, t frames or latents, h w, n clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lvdm.evaluation.features import ClipPixels, extract
from lvdm.evaluation.given_latents import Given, Kind, both_ends
from lvdm.evaluation.measure import Settings, choose_real, facts_of, measure_real, scoring
from lvdm.evaluation.metrics.metric import METRICS
from lvdm.evaluation.metrics.scores import ScoreOptions, mean_over
from lvdm.evaluation.protocols.clip_choice import Clip
from lvdm.evaluation.protocols.pixels import to_levels
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.reconstruction import check_side, clip_scores, score_names
from lvdm.evaluation.results.provenance import FakeSource, Origin
from lvdm.evaluation.results.result import Result, Value
from lvdm.evaluation.round_trip import NO_FEATURES
from lvdm.evaluation.sources.model import Sampling
from lvdm.evaluation.sources.videos import Source
from lvdm.models.features.extractors import Extractor
from lvdm.models.features.perceptual import TRUNKS
from lvdm.models.features.weights import sha256_of, weights_folder
from lvdm.processes import Process, gather, machine
from lvdm.sampling.long_pipeline import STAGES, LongOptions, gap_sampler, prepare_long_video
from lvdm.sampling.noise import VideoNoise
from lvdm.sampling.pipeline import VideoModel, check_finite
from lvdm.types import UserError


@dataclass(frozen=True)
class Completion:
    """A model that completes clips.

    Args:
        kind: a "continuation" is given the first latents; an "infilling" the first and the last ones of its window.
        given: the latents at the beginning, and of an infilling as many at the end.
        samples: of each clip.
        perceptual: LPIPS distances under the names of their scores.
    """

    kind: Kind
    origin: Origin
    model: VideoModel
    sampling: Sampling
    given: Given
    samples: int
    perceptual: Mapping[str, nn.Module]

    def new_frames(self, frames: int) -> slice:
        """Return which frames of a clip are sampled."""
        codec, latents = self.model.codec, self.model.codec.latents_of(frames)
        end = latents - (self.given.count if self.kind == "infilling" else 0)
        if not 1 <= self.given.span < end:
            raise UserError(f"given is {self.given.count}, and a clip of {frames} frames has {latents} latents; give fewer")
        window = codec.frames_of(self.model.trained_settings().latent_shape[1])
        if self.kind == "infilling" and frames != window:
            raise UserError(f"an infilling has the {window} frames of the model's window, not {frames}; change the protocol")
        return slice(codec.frames_of(self.given.span), codec.frames_of(end))

    @torch.no_grad()
    def complete(self, clip: Tensor, number: int) -> Tensor:
        """Return k videos (k, 3, t, h, w) that complete clip `number`, uint8 (t, h, w, 3)."""
        numbers = range(number * self.samples, (number + 1) * self.samples)
        how, frames = self.sampling.of_any(), len(clip)
        if self.kind == "continuation":
            start, stride = clip[: self.model.codec.frames_of(self.given.span)], self.given.stride
            options = LongOptions(frames=frames, overlap=self.given.count, key_stride=None if stride == 1 else stride, **how)
            made = prepare_long_video(self.model, None if stride == 1 else self.model, options, start=start)
            return torch.cat(list(made.videos(self.sampling.seed, numbers)), dim=2)[:, :, :frames].float()
        latents = self.model.codec.latents_of(frames)
        count, slots = self.given.count, both_ends(self.given.count, latents)
        gaps = gap_sampler(self.model, LongOptions(**how), slots, seed=self.sampling.seed, videos=numbers)
        start, end = self._encoded_ends(_floats(clip).to(self.model.device))
        known = torch.cat([start, start.new_zeros(*start.shape[:2], latents - 2 * count, *start.shape[3:]), end], dim=2)
        noise = VideoNoise(self.sampling.seed, numbers, stage=(STAGES["gap"], 0))
        filled = gaps(known.expand(self.samples, -1, -1, -1, -1), slots, noise)
        return self.model.codec.decode(check_finite(filled, self.model.name)).float()

    def _encoded_ends(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Return the given latents of both ends, each of its own frames alone, so that no new frame is seen."""
        codec, f_t = self.model.codec, self.model.codec.temporal_factor
        start, end = video[:, :, : codec.frames_of(self.given.count)], video[:, :, -self.given.count * f_t :]
        if codec.frames_of(1) < f_t:  # the first latent is a frame alone: the end gets one, which is left out again
            end = torch.cat([end[:, :, :1], end], dim=2)
        return codec.encode(start).float(), codec.encode(end).float()[:, :, -self.given.count :]

    def facts(self) -> FakeSource:
        """Return what a result says of the samples."""
        how, settings = self.sampling, self.model.trained_settings()
        guidance = settings.guidance if how.guidance is None else how.guidance
        found = FakeSource.of_model(self.origin, self.model.solver(how), guidance=guidance, seed=how.seed)
        return replace(found, kind=self.kind, given=self.given.count, samples=self.samples)


def _floats(clip: Tensor) -> Tensor:
    """Return uint8 (t, h, w, 3) as (1, 3, t, h, w) in [-1, 1]."""
    return clip.permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def measure_completion(
    protocol: EvalProtocol, real: Source, completion: Completion, extractor: Extractor, options: ScoreOptions, settings: Settings
) -> Result:
    """Return the paired scores of the new frames, the best of all samples, and the distances of the first samples' new frames."""
    (clips,), count = choose_real(protocol, real, settings)
    shape = ClipPixels(real, clips[:1], protocol, "real")[0][0].shape
    new, names = completion.new_frames(shape[0]), score_names(completion.perceptual)
    check_side(min(shape[1:3]), names)
    num_new = new.stop - new.start
    if extractor is not NO_FEATURES and num_new < extractor.min_frames:
        raise UserError(
            f"{num_new} frames are new, and {extractor.name} takes {extractor.min_frames} or more; leave features out"
        )
    originals = measure_real(protocol, real, NO_FEATURES, settings)
    truth, made, scores = _completed(completion, real, clips, protocol, extractor, settings, new)
    values = {name: mean_over(scores[name].mean(1), options, over="clips") for name in names}
    if completion.samples > 1:
        best = {name: scores[name].min(1) if name.startswith("lpips") else scores[name].max(1) for name in names}
        values |= {f"{name}_best": mean_over(best[name], options, over="clips") for name in names}
    if extractor is not NO_FEATURES:
        values |= {f"{metric}_new": Value(METRICS[metric].under(protocol)(truth, made)) for metric in options.metrics}
    trunks = [TRUNKS[name.removeprefix("lpips_")] for name in completion.perceptual]
    return Result(
        protocol=protocol,
        values=values,
        extractor=facts_of(extractor),
        num_real=count,
        num_fake=count,
        fake=completion.facts(),
        real=originals.source,
        scoring=scoring(options),
        networks={file: sha256_of(weights_folder() / file) for file in trunks},
        machine=machine(completion.model.device),
        manifest=originals.manifest,
    )


def _completed(
    completion: Completion,
    source: Source,
    clips: Sequence[Clip],
    protocol: EvalProtocol,
    extractor: Extractor,
    settings: Settings,
    new: slice,
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return features of the true and of the first sampled new frames, and every score (n, k), of all processes."""
    share = Process.this().share(len(clips))
    mine = ClipPixels(source, [clips[i] for i in share], protocol, "real")
    names = score_names(completion.perceptual)
    truth: list[Tensor] = []
    rows: list[list[list[float]]] = []

    def made() -> Iterator[Tensor]:
        for batch, _ in mine.batches(settings.batch_size, workers=settings.workers):
            for clip in batch:
                videos = completion.complete(clip, share.start + len(rows))[:, :, new]  # (k, 3, t, h, w)
                true = _floats(clip[new]).to(videos.device).expand_as(videos)
                scores = clip_scores(true, videos, completion.perceptual)
                rows.append([scores[name].tolist() for name in names])
                truth.append(clip[new])
                yield to_levels(videos[0], protocol.quantise).permute(1, 2, 3, 0).cpu()[None]

    features = extract(made(), extractor, total=len(mine), what="completed clips")
    of_truth = extract((clip[None] for clip in truth), extractor, total=len(mine), what="true clips")
    parts: list[Any] = gather((of_truth, features, rows))
    found = np.array([row for *_, part in parts for row in part])  # (n, scores, k)
    true_features, made_features = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    return true_features, made_features, {name: found[:, place] for place, name in enumerate(names)}
