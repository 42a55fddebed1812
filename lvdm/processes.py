"""The processes of one job: which this is, how they share work, and how they put together what each has measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from lvdm.types import UserError

PATIENCE = timedelta(days=1)  # one process may sample far longer than another
Part = TypeVar("Part")


@dataclass(frozen=True)
class Process:
    """One of the processes that torchrun, SLURM or Lightning started; a single process is 0 of 1."""

    rank: int
    count: int
    on_machine: int  # its number on this machine, and of its GPU

    @staticmethod
    def this() -> Process:
        """Return the current process."""

        def number(*names: str, otherwise: int) -> int:
            return next((int(os.environ[name]) for name in names if name in os.environ), otherwise)

        on_machine = number("LOCAL_RANK", "SLURM_LOCALID", otherwise=0)
        if distributed.is_initialized():  # processes that Lightning started learn their rank only here
            return Process(distributed.get_rank(), distributed.get_world_size(), on_machine)
        return Process(
            rank=number("RANK", "SLURM_PROCID", otherwise=0),
            count=number("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", otherwise=1),
            on_machine=on_machine,
        )

    def share(self, num: int) -> range:
        """Return this process's part of the items 0 ... num - 1."""
        return range(self.rank * num // self.count, (self.rank + 1) * num // self.count)

    def report_file(self, path: Path | None) -> Path | None:
        """Return the path under which this process writes its report; only rank 0 takes the plain name."""
        return path if path is None or self.rank == 0 else path.with_name(f"{path.stem}-rank{self.rank}{path.suffix}")


@contextmanager
def process_group() -> Iterator[Process]:
    """Connect the processes that torchrun or SLURM started; do nothing for a single process or an existing group."""
    process = Process.this()
    if process.count == 1 or distributed.is_initialized():
        yield process
        return
    address, port = _main_address()
    place: dict[str, Any] = {"init_method": f"tcp://{address}:{port}", "rank": process.rank, "world_size": process.count}
    distributed.init_process_group("gloo", timeout=PATIENCE, **place)
    try:
        yield process
    finally:
        distributed.destroy_process_group()


def gather(part: Part) -> list[Part]:
    """Return what every process passed, in the order of ranks; all processes must call this."""
    if not distributed.is_initialized():
        return [part]
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, part)
    return parts


def machine(device: torch.device | str | None = None) -> dict[str, Any]:
    """Return what figures were measured on: device (by default the GPU if there is one), threads, processes, versions."""
    used = as_device("auto" if device is None else device)
    return {
        "device": torch.cuda.get_device_name(used) if used.type == "cuda" else used.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processes": Process.this().count,
    }


def as_device(name: str | torch.device) -> torch.device:
    """Return the device of this name; `auto` is this process's GPU if there is one, else the CPU."""
    if name == "auto":
        name = f"cuda:{Process.this().on_machine}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device="cpu" if device.type == "cuda" else device)  # an mps, say, that torch cannot use
    except (RuntimeError, TypeError, NotImplementedError, AssertionError) as error:
        raise UserError(f"there is no device {name} here; give auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{name} was requested, but torch sees no GPU here; give cpu")
    if device.type == "cuda" and (device.index or 0) >= (gpus := torch.cuda.device_count()):
        raise UserError(
            f"{name} was requested, but torch sees {gpus} GPUs here, numbered from 0; start no more processes than GPUs"
        )
    return device


def _main_address() -> tuple[str, str]:
    if "MASTER_ADDR" in os.environ:
        return os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    from pytorch_lightning.plugins.environments import SLURMEnvironment  # takes seconds to import

    slurm = SLURMEnvironment()
    return slurm.main_address, str(slurm.main_port)
