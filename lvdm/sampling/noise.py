"""Noise that belongs to a video, not to a batch: video i of a seed is the same whatever else is sampled.

Each stream is numpy's, of (seed, video, *stage): among the streams of a long run no two are the same (see lvdm/seeding.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lvdm.rules import integer, require
from lvdm.seeding import numpy_generator

VIDEO_NUMBER = integer(0, 2**32 - 1)  # of a video of a seed


class VideoNoise:
    """A `Noise`: shape (b, ...) -> standard normal float32 on the CPU, row i from the stream of `videos[i]`. Each call continues
    the streams. `stage` separates the parts of one video (one number for the kind of window, one for its index)."""

    def __init__(self, seed: int, videos: Sequence[int], *, stage: tuple[int, ...] = ()) -> None:
        require(integer(0), seed=seed)
        self._streams = [numpy_generator(seed, (video, *stage)) for video in videos]

    def __len__(self) -> int:
        return len(self._streams)

    def __call__(self, shape: Sequence[int]) -> Tensor:
        assert shape[0] == len(self), f"noise for {len(self)} videos was requested for a batch of {shape[0]}"
        rows = [stream.standard_normal(tuple(shape[1:]), dtype=np.float32) for stream in self._streams]
        return torch.from_numpy(np.stack(rows))

    @staticmethod
    def join(parts: Sequence[VideoNoise], rows: slice = slice(None)) -> VideoNoise:  # noqa: B008
        """Return these rows of all parts as one batch, for gaps filled together; the streams are shared, not copied."""
        joined = VideoNoise(0, [])
        joined._streams = [stream for part in parts for stream in part._streams][rows]
        return joined
