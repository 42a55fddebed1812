"""Clips that a model samples while they are measured, never stored: video i of a seed is the same in any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lvdm.evaluation.features import Measured, extract
from lvdm.evaluation.protocols.clip_choice import Clip
from lvdm.evaluation.protocols.manifest import pixels_sha256
from lvdm.evaluation.protocols.pixels import prepare, to_levels
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.results.provenance import FakeSource, Origin
from lvdm.evaluation.sources.sampled import check_at_once, group_size, groups
from lvdm.models.features.extractors import Extractor
from lvdm.processes import gather
from lvdm.sampling.long_pipeline import LongOptions, LongVideo, prepare_long_video
from lvdm.sampling.options import SampleOptions
from lvdm.sampling.pipeline import VideoModel
from lvdm.types import UserError, clip_span, video_shape


@dataclass(frozen=True)
class Sampling(SampleOptions):
    """Options of sampling for a measurement; None takes the model's own setting.

    Args:
        guidance: weight w: against the pass without given frames in long videos, against the empty prompt in others.
        batch_size: videos sampled at once.
    """

    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_once(self.batch_size)


@dataclass(frozen=True)
class ModelSource:
    """A model as a source; clips longer than its window are sampled as long videos."""

    origin: Origin
    model: VideoModel
    sampling: Sampling
    infill: VideoModel | None = None
    before_group: Callable[[], None] = lambda: None  # called by every process before it samples a group, to stop there

    def lengths(self, count: int, protocol: EvalProtocol) -> list[int]:
        """Return the lengths of so many videos, each long enough for one clip and no longer."""
        return [protocol.frames * protocol.fake_stride] * count

    def check(self, protocol: EvalProtocol) -> None:
        """Refuse what cannot be sampled, or would have no effect, before anything is measured."""
        how, span = self.sampling, _span(protocol)
        if protocol.fake_clips != "first frames":
            raise UserError(f"fake_clips {protocol.fake_clips!r} has no effect on a model, which samples each clip; leave it out")
        if self._is_long(span):
            self._long(span)
            return
        self.model.solver(how)
        if self.infill is not None:
            raise UserError(f"infill has no effect on {span} frames, which this model samples at once; leave it out")
        if how.guidance:
            raise UserError(f"guidance {how.guidance:g} has no effect on clips without label or text; leave it out")

    def facts(self, protocol: EvalProtocol) -> FakeSource:
        """Return what a result says of where its clips came from."""
        settings, how = self.model.trained_settings(), self.sampling
        solver = self.model.solver(how)
        guidance = settings.guidance if how.guidance is None else how.guidance
        # short clips have nothing to be guided by
        guidance = guidance if self._is_long(_span(protocol)) else 0.0
        return FakeSource.of_model(self.origin, solver, guidance=guidance, seed=how.seed)

    def measure(self, clips: Sequence[Clip], protocol: EvalProtocol, extractor: Extractor) -> Measured:
        """Measure this process's groups of videos, and return those of all processes."""
        assert [clip.video - clips[0].video for clip in clips] == list(range(len(clips))), "a clip of each video, in order"
        span, count = _span(protocol), len(clips)
        mine = groups(count, self._group_size(count, span))
        hashes: list[str] = []

        def pixels() -> Iterator[Tensor]:
            for rows in mine:
                self.before_group()
                made = self._videos([clips[0].video + row for row in rows], span, protocol.quantise)
                cut = [_cut(video, protocol) for row, video in zip(rows, made, strict=True) if row < count]
                hashes.extend(pixels_sha256(clip.numpy()) for clip in cut)
                if cut:
                    yield torch.stack(cut)

        total = sum(len(range(rows.start, min(rows.stop, count))) for rows in mine)
        features = extract(pixels(), extractor, total=total, what="generated clips")
        parts = gather((features, hashes))
        return Measured(np.concatenate([part for part, _ in parts]), [one for _, part in parts for one in part])

    def _is_long(self, frames: int) -> bool:
        return frames > self._own_frames

    @property
    def _own_frames(self) -> int:
        return video_shape(self.model.codec, self.model.trained_settings().latent_shape)[0]

    def _group_size(self, count: int, frames: int) -> int:
        windows = -(-frames // self._own_frames)
        elements = int(np.prod(self.model.trained_settings().latent_shape)) * windows
        return group_size(self.sampling.batch_size, count, elements, self.model.device)

    def _videos(self, numbers: Sequence[int], frames: int, quantise: str) -> Iterator[Tensor]:
        """Yield uint8 (t, h, w, 3) of each video."""
        how = self.sampling
        if self._is_long(frames):
            chunks = self._long(frames).videos(how.seed, numbers)
            yield from torch.cat([to_levels(chunk, quantise).permute(0, 2, 3, 4, 1).cpu() for chunk in chunks], dim=1)
            return
        options = {**how.of_any(), "seed": how.seed}
        latents = self.model.sample_latents(len(numbers), first=numbers[0], batch_size=len(numbers), **options)
        for latent in latents.split(1):
            yield to_levels(self.model.codec.decode(latent)[0], quantise).permute(1, 2, 3, 0).cpu()

    def _long(self, frames: int) -> LongVideo:
        return prepare_long_video(self.model, self.infill, LongOptions(frames=frames, **self.sampling.of_any()))


def _span(protocol: EvalProtocol) -> int:
    """Return the frames from the first to the last of a clip, both counted."""
    return clip_span(protocol.frames, protocol.fake_stride)


def _cut(video: Tensor, protocol: EvalProtocol) -> Tensor:
    return prepare(video[:: protocol.fake_stride][: protocol.frames].contiguous(), protocol)
