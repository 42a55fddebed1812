"""Which process this is: commands that share their work over files alone need no more to run in many."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import distributed


@dataclass(frozen=True)
class Process:
    """Which process this is of those that torchrun, SLURM or Lightning started; alone it is 0 of 1."""

    rank: int
    count: int
    on_machine: int  # its number on this machine, and of its GPU

    @staticmethod
    def this() -> Process:
        def number(*names: str, otherwise: int) -> int:
            return next((int(os.environ[name]) for name in names if name in os.environ), otherwise)

        on_machine = number("LOCAL_RANK", "SLURM_LOCALID", otherwise=0)
        if distributed.is_initialized():  # those that Lightning started know their rank by nothing else
            return Process(distributed.get_rank(), distributed.get_world_size(), on_machine)
        return Process(
            rank=number("RANK", "SLURM_PROCID", otherwise=0),
            count=number("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", otherwise=1),
            on_machine=on_machine,
        )

    def share(self, num: int) -> range:
        """Its part of the videos 0 ... num - 1."""
        return range(self.rank * num // self.count, (self.rank + 1) * num // self.count)

    def report_file(self, path: Path | None) -> Path | None:
        """Each process reports under its own name."""
        return path if path is None or self.rank == 0 else path.with_name(f"{path.stem}-rank{self.rank}{path.suffix}")
