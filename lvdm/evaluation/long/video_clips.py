"""Clips of a long video that comes in pieces: which frames they take, and their features as soon as they are whole.

Letters: t frames, h w, k clips of a video, d features. A clip goes through the network alone, for in a batch the rounding of
its features would tell how many others there were; so no more than one waits in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lvdm.evaluation.protocols.pixels import prepare
from lvdm.evaluation.protocols.protocol import EvalProtocol


def chunks(frames: int, protocol: EvalProtocol) -> list[range]:
    """Return the frames of each clip of the protocol, one clip after the other; frames left over at the end are in none."""
    length = protocol.frames * protocol.fake_stride
    return [range(start, start + length, protocol.fake_stride) for start in range(0, frames - length + 1, length)]


@dataclass(frozen=True)
class VideoClips:
    """The clips that one protocol measures in every video: they do not overlap, and are in order."""

    protocol: EvalProtocol
    clips: Sequence[range]

    def pick(self, frames: Tensor, first: int) -> Tensor:
        """Return the frames of clips, with the protocol's pixels, in a piece of the video, uint8 (t, h, w, 3) from `first` on."""
        wanted = [frame - first for clip in self.clips for frame in clip if first <= frame < first + len(frames)]
        return prepare(frames[wanted], self.protocol) if wanted else frames[:0]


class ClipFeatures:
    """Features of the clips of one video, whose frames come in any pieces.

    Args:
        extractor: uint8 (b, t, h, w, 3) -> (b, d).
        frames: of a clip.
    """

    def __init__(self, extractor: Callable[[Tensor], Tensor], *, frames: int) -> None:
        self.extractor, self.frames = extractor, frames
        self._waiting: list[Tensor] = []
        self._done: list[np.ndarray] = []

    def add(self, picked: Tensor) -> None:
        """Add the next frames, uint8 (t, h, w, 3), if there are any."""
        for frame in picked:
            self._waiting.append(frame)
            if len(self._waiting) == self.frames:
                self._done.append(self.extractor(torch.stack(self._waiting)[None]).float().cpu().numpy())
                self._waiting.clear()

    def features(self) -> np.ndarray:
        """Return features (k, d) float32, once all frames have been added."""
        assert not self._waiting, f"{len(self._waiting)} frames of a clip of {self.frames}"
        return np.concatenate(self._done)
