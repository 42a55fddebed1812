"""Batches that fit the memory: sized by what is free, and halved when it runs out. No size changes what is computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU: what the driver has, and what torch's allocator holds for later use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def fitting(units: int, device: torch.device, *, bytes_per_unit: int, units_on_cpu: int) -> int:
    """Return how many items of so many units to compute at once, at least one: what fits a GPU, or what a CPU is fast with."""
    most = free_bytes(device) // bytes_per_unit if device.type == "cuda" else units_on_cpu
    return max(1, most // units)


@dataclass
class Batches:
    """The largest batch that has fitted so far.

    Args:
        what: the items, for the log.
        size: items at once; None is any number. When memory runs out it becomes half of the batch that did not fit.
        shrinks: whether to go on with half; False where several processes must run in step.
    """

    what: str = "items"
    size: int | None = None
    shrinks: bool = True

    def over(self, count: int, run: Callable[[slice], T], most: int | None = None) -> Iterator[T]:
        """Yield run(rows) for slices of `count` items, at most `most` at once; a batch that does not fit runs again in parts."""
        done = 0
        while done < count:
            size = min(count - done, *(each for each in (most, self.size) if each is not None), count)
            made = self._try(run, slice(done, done + size))
            if made:
                done += size
                yield made.pop()
                continue
            self.size = (size + 1) // 2
            logger.warning("%d %s at once do not fit the memory; continuing with %d", size, self.what, self.size)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _try(self, run: Callable[[slice], T], rows: slice) -> list[T]:
        """Return the result, or nothing if memory ran out; the failed tensors are freed when this returns."""
        try:
            return [run(rows)]
        except torch.OutOfMemoryError:
            if not self.shrinks or rows.stop - rows.start == 1:
                raise
            return []
