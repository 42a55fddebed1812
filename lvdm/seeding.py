"""Every random stream of lvdm, each a function of a seed and a place, such as (seed, epoch, sample).

Nothing is saved or restored, and batch size, workers and processes change no draw. There are four schemes because published
seeds must keep giving the same clips, batches and videos. They differ in how many streams they can tell apart:
- `clip_generator` and `step_generator` make a torch.Generator. On the CPU it keeps 32 bits of its seed, so two of a
  million samples or steps may draw the same numbers. That does no harm to crops, or to the noise of different videos.
- `numpy_generator` keeps 128 bits. Sampling uses it, because two generated videos must not share their noise.
- `protocol_generator` is numpy's RandomState. numpy promises that its streams never change, so published figures can be repeated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch


def clip_generator(seed: int, *place: int) -> torch.Generator:
    """Return the stream of a data set at a place such as (epoch, sample, attempt); its torch seed is a BLAKE2b hash."""
    words = "/".join(str(part) for part in (seed, *place))
    state = int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(state)


def step_generator(*place: int) -> torch.Generator:
    """Return the stream of training at a place such as (seed, step, batch); its torch seed comes from a SeedSequence."""
    state = np.random.SeedSequence(place).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


def numpy_generator(seed: int | Sequence[int], place: Sequence[int] = ()) -> np.random.Generator:
    """Return the stream of a seed, or of one of the streams below it, such as (video, stage) of sampling."""
    assert all(0 <= number < 2**32 for number in place), f"the numbers of a place have 32 bits and no sign, got {place}"
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=tuple(place))))


def protocol_generator(*place: int) -> np.random.RandomState:
    """Return the stream of an evaluation protocol at a place such as (seed, run, purpose)."""
    return np.random.RandomState(list(place))
