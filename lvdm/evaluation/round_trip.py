"""Measure a codec: clips are encoded and decoded, scored, and the first ones are written as videos to look at.

The codec sees one clip at a time, in full float32, so that batches and processes change no level of a reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lvdm.evaluation.features import ClipPixels, extract
from lvdm.evaluation.measure import Settings, choose_real, facts_of, measure_real, scoring
from lvdm.evaluation.metrics.metric import METRICS
from lvdm.evaluation.metrics.scores import ScoreOptions, mean_over, paired_distances
from lvdm.evaluation.protocols.clip_choice import Clip
from lvdm.evaluation.protocols.named import PROTOCOLS
from lvdm.evaluation.protocols.pixels import to_levels
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.reconstruction import check_side, clip_scores, score_names
from lvdm.evaluation.results.provenance import FakeSource
from lvdm.evaluation.results.result import Result
from lvdm.evaluation.sources.videos import Source
from lvdm.models.features.extractors import Extractor, FrozenFeatures, full_precision
from lvdm.models.features.perceptual import TRUNKS
from lvdm.models.features.weights import sha256_of, weights_folder
from lvdm.processes import Process, gather, machine
from lvdm.sampling.writers import open_writers
from lvdm.types import UserError, VideoCodec

OF_FAKE = ("num_fake", "fake_stride", "fake_clips")  # fields of a protocol that say nothing of reconstructions


class _Nothing(nn.Module):
    def forward(self, video: Tensor) -> Tensor:
        return video.new_empty((len(video), 0))


NO_FEATURES = FrozenFeatures(_Nothing(), lambda video: video, name="none", dim=0, min_frames=1)  # for scores of pixels alone


@dataclass(frozen=True)
class Reconstructed:
    """Features (n, d) of the reconstructions of clips, in their order, and every score (n,) of each clip."""

    features: np.ndarray
    scores: dict[str, np.ndarray]


@dataclass(frozen=True)
class Show:
    """The files PATH.clipN.mp4 of the first `count` clips, each above its reconstruction."""

    path: Path
    count: int
    fps: float = 8.0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UserError(f"show is {self.count}; give the number of clips to write, or 0")

    def file(self, number: int) -> Path:
        """Return the path of a clip."""
        return self.path.with_suffix(f".clip{number}.mp4")

    def write(self, number: int, clip: Tensor, made: Tensor) -> None:
        """Write a clip and its reconstruction, uint8 (t, h, w, 3) twice, if it is one of the first."""
        if number >= self.count:
            return
        with open_writers({"mp4": self.file(number)}, fps=self.fps, overwrite=True) as files:
            files.write(torch.cat([clip, made], dim=1).numpy())


@dataclass(frozen=True)
class RoundTrip:
    """A model's codec on a device, with LPIPS distances under the names of their scores; `name` and `sha256` are of its file."""

    name: str
    sha256: str
    codec: VideoCodec
    device: torch.device
    perceptual: Mapping[str, nn.Module]
    show: Show

    @torch.no_grad()
    def __call__(self, clip: Tensor, quantise: str) -> tuple[Tensor, list[float]]:
        """Return the reconstruction of a clip, both uint8 (t, h, w, 3), and the scores in the order of `names`."""
        with full_precision(self.device):
            video = clip.to(self.device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1  # (1, 3, t, h, w)
            made = self._made(video)
            scores = clip_scores(video, made, self.perceptual)
        return to_levels(made[0], quantise).permute(1, 2, 3, 0).cpu(), [scores[name].item() for name in self.names]

    def _made(self, video: Tensor) -> Tensor:
        """Return what the codec makes of a video, once it is a video of the same shape."""
        made: object = self.codec.decode(self.codec.encode(video))
        if not isinstance(made, Tensor) or made.shape != video.shape:
            got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise UserError(f"{self.name} makes {got} of a video {tuple(video.shape)}; its codec must decode to the same shape")
        return made.float()

    @property
    def names(self) -> list[str]:
        """Return the names of the scores."""
        return score_names(self.perceptual)


def reconstruction_protocol(protocol: EvalProtocol) -> EvalProtocol:
    """Return a protocol of real clips with as many reconstructions; refuse what reconstructions cannot follow."""
    if any(METRICS[metric].kind != "distance" for metric in protocol.metrics):
        measured = ", ".join(protocol.metrics)
        raise UserError(f"{protocol.name} measures {measured}; reconstructions need distances alone, such as fvd")
    if protocol.runs > 1:
        raise UserError(
            f"{protocol.name} has {protocol.runs} runs, and reconstructions are measured in one; change the protocol to runs=1"
        )
    base = PROTOCOLS.get(protocol.based_on, protocol)
    for key in OF_FAKE:
        if getattr(protocol, key) != getattr(base, key):
            raise UserError(f"{key} has no effect on reconstructions, which follow the real clips; leave it out")
    return replace(protocol, num_fake=protocol.num_real)


def measure_reconstruction(
    protocol: EvalProtocol, real: Source, trip: RoundTrip, extractor: Extractor, options: ScoreOptions, settings: Settings
) -> Result:
    """Return the result of a codec; every process takes its share and returns the same."""
    (clips,), count = choose_real(protocol, real, settings)
    _check_fit(protocol, ClipPixels(real, clips[:1], protocol, "real")[0][0].shape, trip, extractor)
    originals = measure_real(protocol, real, extractor, settings)
    made = reconstruct(trip, real, clips, protocol, extractor, settings)
    of_clips = {name: mean_over(scores, options, over="clips") for name, scores in made.scores.items()}
    if extractor is not NO_FEATURES:
        of_clips |= paired_distances(protocol, originals.features[0], made.features, options)
    trunks = [TRUNKS[name.removeprefix("lpips_")] for name in trip.perceptual]
    return Result(
        protocol=protocol,
        values=of_clips,
        extractor=facts_of(extractor),
        num_real=count,
        num_fake=count,
        fake=FakeSource("reconstruction", trip.name, trip.sha256),
        real=originals.source,
        scoring=scoring(options),
        networks={file: sha256_of(weights_folder() / file) for file in trunks},
        machine=machine(trip.device),
        manifest=originals.manifest,
    )


def _check_fit(protocol: EvalProtocol, shape: Sequence[int], trip: RoundTrip, extractor: Extractor) -> None:
    """Refuse clips (t, h, w, c) that the codec cannot encode, or that cannot be scored, before anything is measured."""
    frames, height, width, _ = shape
    f_s, frames_of, latents_of = trip.codec.spatial_factor, trip.codec.frames_of, trip.codec.latents_of
    check_side(min(height, width), trip.names)
    if height % f_s or width % f_s:
        near = max(f_s, min(height, width) // f_s * f_s)
        how = f"resolution={near}" + (" resize='crop, bilinear'" if protocol.resolution is None else "")
        sizes = f"frames of {width} x {height} do not divide into latents of {f_s} x {f_s} pixels"
        raise UserError(f"{sizes}; change the protocol to {how}")
    if (near := frames_of(latents_of(frames))) != frames:
        while near < max(extractor.min_frames, 1):
            near = frames_of(latents_of(near) + 1)
        lengths = f"clips of {frames} frames do not divide into latents of {trip.codec.temporal_factor} frames"
        raise UserError(f"{lengths}; change the protocol to frames={near}")


def reconstruct(
    trip: RoundTrip,
    source: Source,
    clips: Sequence[Clip],
    protocol: EvalProtocol,
    extractor: Extractor,
    settings: Settings,
) -> Reconstructed:
    """Reconstruct this process's part of the clips, and return what all processes measured."""
    share = Process.this().share(len(clips))
    mine = ClipPixels(source, [clips[i] for i in share], protocol, "real")
    rows: list[list[float]] = []

    def made() -> Iterator[Tensor]:
        for batch, _ in mine.batches(settings.batch_size, workers=settings.workers):
            levels = []
            for clip in batch:
                back, scores = trip(clip, protocol.quantise)
                trip.show.write(share.start + len(rows), clip, back)
                levels.append(back)
                rows.append(scores)
            yield torch.stack(levels)

    features = extract(made(), extractor, total=len(mine), what="reconstructions")
    parts = gather((features, rows))
    of_clips = np.array([scores for _, part in parts for scores in part])  # (n, scores)
    return Reconstructed(np.concatenate([part for part, _ in parts]), dict(zip(trip.names, of_clips.T, strict=True)))
