"""Which sample when: a permutation of its own for each (seed, epoch), split over the processes, resumable within an epoch.

The k-th batch of all processes together holds the same samples however many processes share it, for the same total size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import distributed
from torch.utils.data import DataLoader, DistributedSampler

from lvdm.data.seeding import Draw, generator
from lvdm.types import UserError

Batch = TypeVar("Batch")


@runtime_checkable
class ClipSet(Protocol):
    """What a data set is to the loaders: light to construct, looks at the disk in `prepare`, gives the same item for a `Draw`."""

    def prepare(self) -> None: ...

    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: int | Draw) -> dict[str, Any]: ...


class EpochSampler(DistributedSampler[Draw]):
    """Hands out `Draw(epoch, index)`. Lightning calls `set_epoch`, and leaves a DistributedSampler as it is.

    Args:
        data: only its length is asked.
        shuffle: a permutation per epoch that drops what does not divide by the processes; if false, everything in order,
            always as epoch 0, where the last processes repeat from the start to be as long as the first.
        processes: (how many, which one); left out, those of torch.distributed where it is running, else one.
    """

    def __init__(self, data: Sized, *, seed: int, shuffle: bool, processes: tuple[int, int] | None = None) -> None:
        world_size, rank = processes or _processes()
        super().__init__(data, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed, drop_last=shuffle)  # type: ignore
        self._skipped = 0

    def skip(self, samples: int) -> None:
        """Leave out the first samples of the next pass: they were trained on before a restart."""
        self._skipped = samples

    def __iter__(self) -> Iterator[Draw]:
        skipped, self._skipped = self._skipped, 0
        epoch = self.epoch if self.shuffle else 0
        return iter([Draw(epoch, index) for index in self._mine()[skipped:]])

    def _mine(self) -> list[int]:
        count = len(self.dataset)  # type: ignore
        if not self.shuffle:
            return [position % count for position in range(self.rank, self.total_size, self.num_replicas)]
        order = torch.randperm(count, generator=generator(self.seed, self.epoch))
        return order[self.rank : self.total_size : self.num_replicas].tolist()


def _processes() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size(), distributed.get_rank()
    return 1, 0


@dataclass(frozen=True)
class Position:
    """How far a pass over the data is."""

    epoch: int = 0
    batches: int = 0  # handed out


class ClipLoader(DataLoader[dict[str, Any]]):
    """A DataLoader over an `EpochSampler` that Lightning can save and load in the middle of an epoch."""

    _position = Position()
    _resumed: Position | None = None  # loaded, and not yet gone on from

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Nothing happens before the first batch is asked for: Lightning may make the iterator before it sets the epoch."""
        epoch = self.sampler.epoch if isinstance(self.sampler, EpochSampler) else 0  # Lightning's overfit_batches brings its own
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
        """Where the pass over the data stands."""
        return asdict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next pass, if it is of the same epoch, goes on where that one stood."""
        self._resumed = self._position = Position(**state)


def next_batch(batches: Iterator[Batch]) -> Batch | None:
    """The next batch, None at the end; a worker's UserError comes with a traceback before it, and is one sentence again."""
    try:
        return next(batches, None)
    except UserError as error:
        raise UserError(str(error).rstrip().rsplit("UserError: ", 1)[-1]) from error
