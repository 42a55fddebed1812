"""Batches that fit the memory: sized by what is free, and halved when it runs out. No size changes what is computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from lvdm.types import UserError, first_line

logger = logging.getLogger(__name__)

T = TypeVar("T")
REASON = 60  # letters of torch's reason: what it tried to allocate


class OutOfMemory(UserError, torch.OutOfMemoryError):
    """The memory of a device does not hold even one item."""


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
        except OutOfMemory:
            if not self.shrinks or rows.stop - rows.start == 1:
                raise  # it says what does not fit
            return []
        except torch.OutOfMemoryError as error:
            if not self.shrinks or rows.stop - rows.start == 1:
                raise OutOfMemory(self._words(rows.stop - rows.start, error)) from error
            return []

    def _words(self, count: int, error: torch.OutOfMemoryError) -> str:
        much = f"one of the {self.what} does" if count == 1 else f"{count} {self.what} at once do"
        advice = "take smaller or shorter ones, bfloat16, or a device with more memory"
        advice = advice if count == 1 else f"lower the batch size, or {advice}"
        return f"{much} not fit the memory ({first_line(error):.{REASON}}); {advice}"


@contextmanager
def taking_back(report: Callable[[float], None]) -> Iterator[Callable[[float], None]]:
    """Yield the same report. If memory runs out inside, what was reported is taken back, because the batch runs again."""
    done = 0.0

    def counted(share: float) -> None:
        nonlocal done
        done += share
        report(share)

    try:
        yield counted
    except torch.OutOfMemoryError:
        report(-done)
        raise
