"""Clips through a codec and back: their scores, the features of what came back, and the first ones as videos to look at.

The codec sees one clip at a time, in full float32, so that batches and processes change no level of what comes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lvdm.evaluation.features import ClipPixels, extract
from lvdm.evaluation.measure import Settings
from lvdm.evaluation.protocols.clip_choice import Clip
from lvdm.evaluation.protocols.pixels import to_levels
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.reconstruction import clip_scores, score_names
from lvdm.evaluation.sources.videos import Source
from lvdm.models.features.extractors import Extractor, full_precision
from lvdm.processes import Process, gather
from lvdm.sampling.writers import open_writers
from lvdm.types import VideoCodec


@dataclass(frozen=True)
class Reconstructed:
    """Of clips in their order: features (n, d) of their reconstructions as levels, and every score (n,) of each."""

    features: np.ndarray
    scores: dict[str, np.ndarray]


@dataclass(frozen=True)
class Show:
    """The first `count` clips go to PATH.clipN.mp4, above their reconstructions."""

    path: Path
    count: int
    fps: float

    def file(self, number: int) -> Path:
        return self.path.with_suffix(f".clip{number}.mp4")

    def write(self, number: int, clip: Tensor, made: Tensor) -> None:
        """uint8 (t, h, w, 3) twice."""
        if number >= self.count:
            return
        with open_writers({"mp4": self.file(number)}, fps=self.fps, overwrite=True) as files:
            files.write(torch.cat([clip, made], dim=1).numpy())


@dataclass(frozen=True)
class RoundTrip:
    """A model file's codec on a device, with LPIPS distances under the names of their scores."""

    path: Path
    codec: VideoCodec
    device: torch.device
    perceptual: Mapping[str, nn.Module]
    show: Show

    @torch.no_grad()
    def __call__(self, clip: Tensor, quantise: str) -> tuple[Tensor, list[float]]:
        """uint8 (t, h, w, 3) -> its reconstruction as that, and the scores in the order of `names`."""
        with full_precision(self.device):
            video = clip.to(self.device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1  # (1, 3, t, h, w)
            made = self.codec.decode(self.codec.encode(video)).float()
            scores = clip_scores(video, made, self.perceptual)
        return to_levels(made[0], quantise).permute(1, 2, 3, 0).cpu(), [scores[name].item() for name in self.names]

    @property
    def names(self) -> list[str]:
        return score_names(self.perceptual)


def reconstruct(
    trip: RoundTrip,
    source: Source,
    clips: Sequence[Clip],
    protocol: EvalProtocol,
    extractor: Extractor,
    settings: Settings,
) -> Reconstructed:
    """This process's part of the clips, then those of all."""
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
