"""Clips of a long video that comes in pieces: which frames they take, and their features as soon as they are whole.

Letters: t frames, h w, k clips of a video, d features. No more than one batch of clips waits in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lvdm.evaluation.pixels import prepare
from lvdm.evaluation.protocol import EvalProtocol


def chunks(frames: int, protocol: EvalProtocol) -> list[range]:
    """The frames of each clip of the protocol, one clip behind the other; what is left over at the end is in none."""
    length = protocol.frames * protocol.fake_stride
    return [range(start, start + length, protocol.fake_stride) for start in range(0, frames - length + 1, length)]


@dataclass(frozen=True)
class VideoClips:
    """What one protocol looks at in every video: clips that do not overlap, in order."""

    protocol: EvalProtocol
    clips: Sequence[range]

    def pick(self, frames: Tensor, first: int) -> Tensor:
        """Of a piece of the video, uint8 (t, h, w, 3) from frame `first` on: the frames of clips, with the protocol's pixels."""
        wanted = [frame - first for clip in self.clips for frame in clip if first <= frame < first + len(frames)]
        return prepare(frames[wanted], self.protocol) if wanted else frames[:0]


class ClipFeatures:
    """Features of the clips of one video, whose frames come in any pieces.

    Args:
        extractor: uint8 (b, t, h, w, 3) -> (b, d).
        frames: of a clip.
        batch_size: clips through the extractor at once.
    """

    def __init__(self, extractor: Callable[[Tensor], Tensor], *, frames: int, batch_size: int) -> None:
        self.extractor, self.frames, self.batch_size = extractor, frames, batch_size
        self._waiting: list[Tensor] = []
        self._done: list[np.ndarray] = []

    def add(self, picked: Tensor) -> None:
        """The next frames, uint8 (t, h, w, 3); there may be none."""
        self._waiting += list(picked)
        while len(self._waiting) >= self.batch_size * self.frames:
            self._extract(self.batch_size)

    def features(self) -> np.ndarray:
        """(k, d) float32, when all frames have come."""
        assert len(self._waiting) % self.frames == 0, f"{len(self._waiting)} frames are no clips of {self.frames}"
        if self._waiting:
            self._extract(len(self._waiting) // self.frames)
        return np.concatenate(self._done)

    def _extract(self, clips: int) -> None:
        count = clips * self.frames
        batch = torch.stack(self._waiting[:count]).unflatten(0, (clips, self.frames))
        del self._waiting[:count]
        self._done.append(self.extractor(batch).float().cpu().numpy())
