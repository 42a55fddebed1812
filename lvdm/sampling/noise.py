"""Noise that belongs to a video, not to a batch: video i of a seed is the same whatever else is sampled.

Each stream is numpy's PCG64 seeded by (seed, video, *stage). A torch.Generator on the CPU uses the lower 32 bits of its seed
only: among the hundred thousand streams of a long run two would likely be the same. (The draws of training and of data sets
are torch's, whatever the width of the hash they are seeded with; two equal ones among them do no harm.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lvdm.types import UserError


class VideoNoise:
    """A `Noise`: shape (b, ...) -> standard normal float32 on the CPU, row i from the stream of `videos[i]`. Each call continues
    the streams. `stage` separates the parts of one video (one number for the kind of window, one for its index)."""

    def __init__(self, seed: int, videos: Sequence[int], *, stage: tuple[int, ...] = ()) -> None:
        if seed < 0:
            raise UserError(f"seed is {seed}, expected 0 or above")
        self._streams = [_stream(seed, (video, *stage)) for video in videos]

    def __len__(self) -> int:
        return len(self._streams)

    def __call__(self, shape: Sequence[int]) -> Tensor:
        assert shape[0] == len(self), f"noise for {len(self)} videos was requested for a batch of {shape[0]}"
        rows = [stream.standard_normal(tuple(shape[1:]), dtype=np.float32) for stream in self._streams]
        return torch.from_numpy(np.stack(rows))

    @staticmethod
    def join(parts: Sequence[VideoNoise]) -> VideoNoise:
        """Return the rows of all parts as one batch, for gaps filled together; the streams are shared, not copied."""
        joined = VideoNoise(0, [])
        joined._streams = [stream for part in parts for stream in part._streams]
        return joined


def _stream(seed: int, key: tuple[int, ...]) -> np.random.Generator:
    assert all(0 <= number < 2**32 for number in key), f"video and stage numbers must be 32-bit and not negative, got {key}"
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
