"""What processes measured apart, put together in each of them, in order: evaluation sums over sets, and needs all of a set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from pytorch_lightning.plugins.environments import SLURMEnvironment
from torch import distributed

from lvdm.cli.process import Process

PATIENCE = timedelta(days=1)  # one process may sample far longer than another
Part = TypeVar("Part")


@contextmanager
def together() -> Iterator[Process]:
    """Within, the processes that torchrun or SLURM started can talk; alone, or where they can already, nothing is set up."""
    process = Process.this()
    if process.count == 1 or distributed.is_initialized():
        yield process
        return
    address = os.environ.get("MASTER_ADDR")
    if address is None:
        slurm = SLURMEnvironment()
        address, port = slurm.main_address, str(slurm.main_port)
    else:
        port = os.environ["MASTER_PORT"]
    place = {"init_method": f"tcp://{address}:{port}", "rank": process.rank, "world_size": process.count}
    distributed.init_process_group("gloo", timeout=PATIENCE, **place)
    try:
        yield process
    finally:
        distributed.destroy_process_group()


def of_all(part: Part) -> list[Part]:
    """What every process holds, the first one's first."""
    if not distributed.is_initialized():
        return [part]
    parts: list[Part | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, part)
    return parts  # type: ignore[return-value]  # each is filled
