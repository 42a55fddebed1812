"""Randomness of training as a function of where we are, and of nothing else: nothing to save, nothing to restore.

Every process draws for all samples of a step and takes its own, so that several processes draw what one would for the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lvdm.seeding import step_generator as generator_for  # noqa: F401

Several = TypeVar("Several", Tensor, list)


@dataclass(frozen=True)
class Share:
    """The samples of a step that belong to this process: every `processes`-th from `rank` on, as the loaders assign them."""

    rank: int = 0
    processes: int = 1

    def of(self, everyones: Several) -> Several:
        return everyones[self.rank :: self.processes]


ALONE = Share()


def sample_noise(shape: Sequence[int], generator: torch.Generator, share: Share, device: torch.device | str) -> Tensor:
    """Standard normal, (b, ...), each sample from a seed of its own: drawn on the device, whatever it shares the batch with."""
    b, *rest = shape
    seeds = share.of(torch.randint(2**62, (b * share.processes,), generator=generator)).tolist()
    made = torch.empty(b, *rest, device=device)
    for row, seed in zip(made, seeds, strict=True):
        row.normal_(generator=torch.Generator(device).manual_seed(seed))
    return made
