"""Random draws as pure functions of (seed, epoch, sample): workers, processes and batch size change nothing."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch


class Draw(NamedTuple):
    """Which sample in which epoch: what samplers hand to data sets, so that worker processes need no state of their own."""

    epoch: int
    index: int


def as_draw(key: int | Draw, count: int) -> Draw:
    """A plain index is the draw of epoch 0. Python ends a loop over a data set by the IndexError."""
    draw = key if isinstance(key, Draw) else Draw(0, int(key))
    if not 0 <= draw.index < count:
        raise IndexError(f"sample {draw.index} of {count}")
    return draw


def generator(seed: int, *key: int) -> torch.Generator:
    """A generator of its own for each (seed, key...); different keys give unrelated streams."""
    words = "/".join(str(part) for part in (seed, *key))
    state = int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(state)


def draw_integer(count: int, rng: torch.Generator) -> int:
    """Uniform in 0 .. count - 1."""
    return int(torch.randint(count, (), generator=rng))
