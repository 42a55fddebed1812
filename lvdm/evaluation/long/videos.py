"""Long videos watched as they come, piece by piece: the curves of their frames and the features of their clips.

Of every video only a piece and a clip are in memory; videos of a model are watched while they are made and never
stored. Each process watches its own videos, and what is seen of a video depends on that video alone.

Letters: v videos made at once, t frames, h w, k clips of a video, d features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from lvdm.data.loading import next_batch
from lvdm.evaluation.long.frame_curves import FrameFacts, frame_facts
from lvdm.evaluation.long.video_clips import ClipFeatures, VideoClips
from lvdm.evaluation.protocols.pixels import to_levels
from lvdm.evaluation.results.curves import Curves
from lvdm.evaluation.results.provenance import FakeSource, Origin
from lvdm.evaluation.sources.sampled import group_size, groups
from lvdm.evaluation.sources.stored import fake_files
from lvdm.evaluation.sources.videos import Source
from lvdm.models.features.extractors import Extractor
from lvdm.processes import Process, gather
from lvdm.sampling.long_pipeline import LongVideo
from lvdm.sampling.pipeline import to_uint8
from lvdm.types import UserError

PIECE = 128  # frames of a file that are read at once


@dataclass(frozen=True)
class Piece:
    """Some frames of a video, measured: facts for its curves, and for each protocol the frames of clips."""

    video: int
    facts: FrameFacts
    picked: list[Tensor]
    is_last: bool


@dataclass(frozen=True)
class Watched:
    """One video: its curves, and for each protocol the features (k, d) of its clips."""

    curves: Curves
    features: list[np.ndarray]


class LongSource(Protocol):
    """Long videos 0, 1, ...: how long each is, and this process's part of them as pieces, each video's in order."""

    @property
    def lengths(self) -> Sequence[int]:
        """Return the number of frames of each video."""

    def facts(self) -> FakeSource:
        """Return what a result says of the videos; all processes must call it."""

    def plan(self) -> dict[str, Any] | None:
        """Return how a model made them."""

    def name_of(self, video: int) -> str:
        """Return the name of a video."""

    def pieces(self, looked_at: Sequence[VideoClips]) -> Iterator[Piece]:
        """Yield the pieces of this process's videos."""


def watch(source: LongSource, looked_at: Sequence[VideoClips], extractors: Sequence[Extractor]) -> dict[str, Watched]:
    """Return all videos of the source by name, after each process has watched its part; each protocol has an extractor."""
    seen: dict[str, Watched] = {}
    begun: dict[int, _Video] = {}
    watched_by_one = sum(source.lengths) // Process.this().count
    with tqdm(total=watched_by_one, desc="long videos", unit="frame", delay=2.0, disable=Process.this().rank > 0) as bar:
        for piece in source.pieces(looked_at):
            if piece.video not in begun:
                makers = zip(extractors, looked_at, strict=True)
                begun[piece.video] = _Video([ClipFeatures(each, frames=by.protocol.frames) for each, by in makers])
            begun[piece.video].add(piece)
            bar.update(len(piece.facts.change))
            if piece.is_last:
                seen[source.name_of(piece.video)] = begun.pop(piece.video).watched()
    return {name: one for part in gather(seen) for name, one in part.items()}


@dataclass
class _Video:
    """A video of which some pieces have come."""

    clips: list[ClipFeatures]
    facts: list[FrameFacts] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        self.facts.append(piece.facts)
        for each, picked in zip(self.clips, piece.picked, strict=True):
            each.add(picked)

    def watched(self) -> Watched:
        return Watched(FrameFacts.joined(self.facts).curves(), [each.features() for each in self.clips])


# Videos that are there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileVideos:
    """The first `lengths` frames of the first videos of a source, read by workers."""

    source: Source
    lengths: Sequence[int]
    workers: int = 0

    def facts(self) -> FakeSource:
        """Return what a result says of the files."""
        return fake_files(self.source, range(len(self.lengths)))

    def plan(self) -> None:
        """Return nothing, because it is not known how files were made."""
        return None

    def name_of(self, video: int) -> str:
        """Return the name of a video in its source."""
        return self.source.names[video]

    def pieces(self, looked_at: Sequence[VideoClips]) -> Iterator[Piece]:
        """Yield the pieces of this process's videos."""
        videos = Process.this().share(len(self.lengths))
        mine = _FilePieces(self, videos, looked_at)
        loaded = iter(DataLoader(mine, batch_size=None, num_workers=self.workers, collate_fn=_as_it_is))
        while (piece := next_batch(loaded)) is not None:
            yield piece


def long_files(source: Source, count: int, frames: int | None, *, workers: int) -> FileVideos:
    """Return the first `frames` frames of the first videos of a source, or all their frames."""
    lengths = list(source.lengths[:count])
    if frames is not None:
        short = [name for name, length in zip(source.names, lengths, strict=False) if length < frames]
        if short:
            what = f"{len(short)} of {count} videos have fewer, such as {short[0]}"
            raise UserError(f"frames is {frames}, but {what}; give a smaller number, or leave those out")
        lengths = [frames] * count
    return FileVideos(source, lengths, workers)


class _FilePieces(Dataset[Piece]):
    def __init__(self, files: FileVideos, videos: range, looked_at: Sequence[VideoClips]) -> None:
        self.files, self.looked_at = files, looked_at
        self.places = [(video, first) for video in videos for first in range(0, files.lengths[video], PIECE)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Piece:
        video, first = self.places[index]
        length = self.files.lengths[video]
        frames = self.files.source.read(video, range(max(0, first - 1), min(first + PIECE, length)))
        before, frames = (None, frames) if first == 0 else (frames[0], frames[1:])
        pixels = torch.from_numpy(np.ascontiguousarray(frames))
        picked = [by.pick(pixels, first) for by in self.looked_at]
        return Piece(video, frame_facts(frames, before=before), picked, first + len(frames) == length)


def _as_it_is(piece: Any) -> Any:
    return piece


# Videos of a model -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelVideos:
    """Videos 0 ... count - 1 of a seed, watched while they are made.

    Args:
        origin: where the model came from, and the one that fills gaps.
        made: how their long videos are made.
        at_once: videos made at once; None takes as many as are useful.
    """

    origin: Origin
    made: LongVideo
    frames: int
    count: int
    seed: int
    at_once: int | None = None

    @property
    def lengths(self) -> list[int]:
        """Return the number of frames, which all videos share."""
        return [self.frames] * self.count

    def facts(self) -> FakeSource:
        """Return what a result says of the model and of its sampling."""
        keys = self.made.keys
        return FakeSource.of_model(self.origin, keys.solver, guidance=keys.guidance, seed=self.seed)

    def plan(self) -> dict[str, Any]:
        """Return how the long videos are put together."""
        return self.made.describe()

    def name_of(self, video: int) -> str:
        """Return a name of the seed and the number of a video."""
        return f"seed{self.seed}-{video:05d}"

    def pieces(self, looked_at: Sequence[VideoClips]) -> Iterator[Piece]:
        """Yield the pieces of this process's videos while they are sampled."""
        elements = 2 * int(np.prod(self.made.predict.trained_settings().latent_shape))  # twice, for guidance
        size = group_size(self.at_once, self.count, elements, self.made.predict.device)
        for videos in groups(self.count, size):
            yield from (piece for piece in self._pieces_of(videos, looked_at) if piece.video < self.count)

    def _pieces_of(self, videos: range, looked_at: Sequence[VideoClips]) -> Iterator[Piece]:
        """Yield the pieces of videos that are sampled together. Curves are of frames as `sample_long` writes them."""
        done = 0
        before: list[np.ndarray | None] = [None] * len(videos)
        for chunk in self.made.videos(self.seed, videos):  # (v, 3, t, h, w)
            if chunk.shape[2] == 0:  # what is decoded beyond the end
                continue
            shown = to_uint8(chunk)
            by_levels = {quantise: _levels(chunk, quantise) for quantise in {by.protocol.quantise for by in looked_at}}
            is_last = done + shown.shape[1] == self.frames
            for row, video in enumerate(videos):
                frames = shown[row]
                picked = [by.pick(by_levels[by.protocol.quantise][row], done) for by in looked_at]
                yield Piece(video, frame_facts(frames, before=before[row]), picked, is_last)
                before[row] = frames[-1]
            done += shown.shape[1]


def _levels(video: Tensor, quantise: str) -> Tensor:
    """Return the levels uint8 (v, t, h, w, 3) of videos (v, 3, t, h, w) in [-1, 1]."""
    return to_levels(video, quantise).permute(0, 2, 3, 4, 1).contiguous().cpu()
