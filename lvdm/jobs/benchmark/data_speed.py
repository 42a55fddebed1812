"""`benchmark_data`: clips a second from disk to batches, and whether memory grows while they are read."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from lvdm.config import instantiate
from lvdm.data import Draw, VideoData, VideoFolder
from lvdm.data.loading import ClipSet
from lvdm.jobs.run_config import read_run_config
from lvdm.jobs.settings import Config, Overrides
from lvdm.types import UserError

TURNS = 4  # of each way of reading, after a first turn that starts the workers and warms the disk's cache


@dataclass(frozen=True)
class ReadingSpeed:
    """Clips a second of each way of reading, turn by turn."""

    clips: int  # of a turn
    workers: int
    rates: Mapping[str, Sequence[float]]  # clips a second, by way
    memory_mib: Sequence[float]  # of all our processes after each turn, the first one included

    @property
    def ratios(self) -> list[float]:
        """Return how many times as fast the first of two ways was, turn by turn."""
        first, second = self.rates.values()
        return [a / b for a, b in zip(first, second, strict=True)]

    def report(self) -> dict[str, Any]:
        rates = {"clips a turn": self.clips, "workers": self.workers, "clips per second": self.rates}
        return {**rates, "memory (MiB)": self.memory_mib, **({"ratios": self.ratios} if len(self.rates) == 2 else {})}

    def lines(self) -> list[str]:
        """Return the figures in words."""
        lines = [f"{self.clips} clips a turn, {TURNS} turns in turn, {self.workers} workers"]
        for name, each in self.rates.items():
            lines.append(f"  {name:<10} {median(each):.3g} clips/s ({min(each):.3g} to {max(each):.3g})")
        if len(self.rates) == 2:
            one, other = self.rates
            spread = f"({min(self.ratios):.2f} to {max(self.ratios):.2f})"
            lines.append(f"  {one} is {median(self.ratios):.2f} times as fast as {other} {spread}")
        first, last, of_all = self.memory_mib[0], self.memory_mib[-1], self.clips * len(self.memory_mib)
        return [*lines, f"  memory of all processes: {first:.0f} MiB after {self.clips} clips, {last:.0f} MiB after {of_all}"]


@dataclass
class Turn(Sampler[Draw]):
    """A fixed number of draws of one epoch, and no more: workers that read ahead would work in another turn's time."""

    samples: int
    of: int
    epoch: int = 0

    def __iter__(self) -> Iterator[Draw]:
        order = torch.randperm(self.of, generator=torch.Generator().manual_seed(self.epoch))
        return (Draw(self.epoch, int(order[number % self.of])) for number in range(self.samples))

    def __len__(self) -> int:
        return self.samples


def benchmark_data(
    config: Config, overrides: Overrides = None, *, steps: int = 10, batch_size: int | None = None, allow: Sequence[str] = ()
) -> ReadingSpeed:
    """Measure reading the training videos of a config, in turns of so many batches."""
    data = instantiate(read_run_config(config, overrides, allow=allow).data, allow=allow)
    train = videos_on_disk(data)
    turn = Turn(steps * (batch_size or data.batch_size), len(train))
    loader = loader_of(train, data, turn, batch_size or data.batch_size)
    return in_turn({"videos": lambda: sum(1 for _ in loader)}, turn, workers=data.num_workers)


def videos_on_disk(data: VideoData) -> VideoFolder:
    """Return the data set of training, prepared, if it reads video files again and again."""
    train = data.train
    if not isinstance(train, VideoFolder):
        raise UserError(f"this stage measures reading videos, but data.params.train is {type(train).__name__}")
    if train.in_memory:
        raise UserError("this stage measures reading from disk; set data.params.train.params.in_memory=false")
    train.prepare()
    return train


def loader_of(clips: ClipSet, data: VideoData, turn: Turn, batch_size: int) -> DataLoader[dict[str, Any]]:
    """Return batches as training reads them, with the workers of the config."""
    ahead = {"persistent_workers": data.num_workers > 0, "prefetch_factor": data.prefetch_factor}
    pinned = torch.cuda.is_available()
    return DataLoader(clips, batch_size, sampler=turn, num_workers=data.num_workers, pin_memory=pinned, **ahead)  # type: ignore[arg-type]


def in_turn(ways: Mapping[str, Callable[[], object]], turn: Turn, *, workers: int) -> ReadingSpeed:
    """Measure each way, in turn with the others; a call reads all clips of a turn."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    memory = []
    for number in tqdm(range(TURNS + 1), desc="turns", unit="turn", leave=False):
        turn.epoch = number
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            rates[name].append(turn.samples / (time.perf_counter() - start))
        memory.append(memory_mib())
    return ReadingSpeed(turn.samples, workers, {name: each[1:] for name, each in rates.items()}, memory)


def memory_mib() -> float:
    """Return the memory of this process and its workers; what they share is counted once.

    Mapped files, such as libraries, are left out: a program's share of them changes as other users come and go.
    """
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    texts = [Path(f"/proc/{process}/smaps_rollup").read_text() for process in processes]
    kib = (int(size) for text in texts for size in re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", text, re.MULTILINE))
    return sum(kib) / 1024
