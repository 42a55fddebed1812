"""Noise that belongs to a video, not to a batch: video i of a seed is the same whatever is sampled beside it.

Each stream is numpy's, of (seed, video, *stage): among the streams of a long run no two are the same (see lvdm/seeding.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lvdm.seeding import numpy_generator
from lvdm.types import UserError


class VideoNoise:
    """A `Noise`: shape (b, ...) -> standard normal float32 on the CPU, row i from the stream of `videos[i]`, each call going on
    where the last ended. `stage` sets apart the parts of one video (say, one number for the kind, one for the window)."""

    def __init__(self, seed: int, videos: Sequence[int], *, stage: tuple[int, ...] = ()) -> None:
        if seed < 0:
            raise UserError(f"seed is {seed}, expected 0 or above")
        self._streams = [numpy_generator(seed, (video, *stage)) for video in videos]

    def __len__(self) -> int:
        return len(self._streams)

    def __call__(self, shape: Sequence[int]) -> Tensor:
        assert shape[0] == len(self), f"noise for {len(self)} videos was asked for a batch of {shape[0]}"
        rows = [stream.standard_normal(tuple(shape[1:]), dtype=np.float32) for stream in self._streams]
        return torch.from_numpy(np.stack(rows))

    @staticmethod
    def join(parts: Sequence[VideoNoise]) -> VideoNoise:
        """The rows of all parts in one batch, as for gaps filled together; the streams are shared, not copied."""
        joined = VideoNoise(0, [])
        joined._streams = [stream for part in parts for stream in part._streams]
        return joined
