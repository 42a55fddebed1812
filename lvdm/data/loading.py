"""The order of samples: a new permutation for each (seed, epoch), divided over the processes, resumable within an epoch.

The k-th batch of all processes together holds the same samples for any number of processes, if its total size is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import distributed
from torch.utils.data import DataLoader, DistributedSampler

from lvdm.seeding import clip_generator
from lvdm.types import UserError

Batch = TypeVar("Batch")


class Draw(NamedTuple):
    """A sample in an epoch: the key that samplers pass to data sets, so that worker processes need no state."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs of a draw


def as_draw(key: int | Draw, count: int) -> Draw:
    """Return the draw of a key; a plain index is one of epoch 0. Python ends a loop over a data set by the IndexError."""
    draw = key if isinstance(key, Draw) else Draw(0, int(key))
    if not 0 <= draw.index < count:
        raise IndexError(f"sample {draw.index} of {count}")
    return draw


@runtime_checkable
class ClipSet(Protocol):
    """A data set as the loaders use it; docs/data.md has an example."""

    def prepare(self) -> None:
        """Look at the disk, once; constructing is light, because a config is built before it is checked."""

    def fingerprint(self) -> str:
        """Return a hash of the data; a resumed run must find the same."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: int | Draw) -> dict[str, Any]:
        """Return the item of (epoch, index), always the same; `as_draw` accepts a plain index too."""


class EpochSampler(DistributedSampler[Draw]):
    """A sampler of `Draw(epoch, index)`. Lightning calls `set_epoch`, and does not replace a DistributedSampler.

    Args:
        data: only its length is used.
        shuffle: a permutation per epoch without the samples that do not divide by the processes. If false, all samples in
            order, always as epoch 0; the last processes repeat the first samples to be as long as the others.
        processes: (number, rank); left out, those of torch.distributed if it is initialized, else (1, 0).
    """

    def __init__(self, data: Sized, *, seed: int, shuffle: bool, processes: tuple[int, int] | None = None) -> None:
        world_size, rank = processes or _processes()
        super().__init__(data, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed, drop_last=shuffle)  # type: ignore
        self._skipped = 0

    def skip(self, samples: int) -> None:
        """Skip the first samples of the next pass, which were trained on before a restart."""
        self._skipped = samples

    def __iter__(self) -> Iterator[Draw]:
        skipped, self._skipped = self._skipped, 0
        epoch = self.epoch if self.shuffle else 0
        return iter([Draw(epoch, index) for index in self._mine()[skipped:]])

    def _mine(self) -> list[int]:
        count = len(self.dataset)  # type: ignore
        if not self.shuffle:
            return [position % count for position in range(self.rank, self.total_size, self.num_replicas)]
        order = torch.randperm(count, generator=clip_generator(self.seed, self.epoch))
        return order[self.rank : self.total_size : self.num_replicas].tolist()


def _processes() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size(), distributed.get_rank()
    return 1, 0


@dataclass(frozen=True)
class Position:
    """The position in a pass over the data."""

    epoch: int = 0
    batches: int = 0  # yielded


class ClipLoader(DataLoader[dict[str, Any]]):
    """A DataLoader over an `EpochSampler` that Lightning can save and load in the middle of an epoch."""

    _position = Position()
    _resumed: Position | None = None  # loaded, and not used yet

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yield batches. Nothing happens before the first one: Lightning may create the iterator before it sets the epoch."""
        epoch = self.sampler.epoch if isinstance(self.sampler, EpochSampler) else 0  # overfit_batches of Lightning brings its own
        resumed, self._resumed = self._resumed, None
        self._position = Position(epoch)
        if resumed is not None and resumed.epoch == epoch and resumed.batches < len(self):
            self._position = resumed
            self.sampler.skip(resumed.batches * self.batch_size)  # type: ignore
        batches = super().__iter__()
        while (batch := next_batch(batches)) is not None:
            self._position = replace(self._position, batches=self._position.batches + 1)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return how far the pass over the data has come."""
        return asdict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume at this position, if the next pass is of the same epoch."""
        self._resumed = self._position = Position(**state)


def next_batch(batches: Iterator[Batch]) -> Batch | None:
    """Return the next batch, None at the end; cut the traceback that a worker puts before the sentence of a UserError."""
    try:
        return next(batches, None)
    except UserError as error:
        raise UserError(str(error).rstrip().rsplit("UserError: ", 1)[-1]) from error
