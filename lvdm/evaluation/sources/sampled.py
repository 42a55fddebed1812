"""What every measurement of a model's videos shares: the groups in which they are made, and what a result says of the model.

A group is whole and the same whoever makes it, for the rounding of a video depends on how many it is made with. Each process
makes as many groups as every other, since a model in parts is put together by all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lvdm.checkpoints.model_file import read_info
from lvdm.evaluation.results.result import FakeSource
from lvdm.models.features.weights import sha256_of
from lvdm.processes import Process, gather
from lvdm.sampling.pipeline import auto_batch
from lvdm.sampling.solver import Solver
from lvdm.types import UserError

GROUP = 16  # videos made at once, where there is room: enough to fill a GPU, few enough to share out evenly


def check_at_once(videos: int | None) -> None:
    """Before anything is measured."""
    if videos is not None and videos < 1:
        raise UserError(f"{videos} videos at once: give 1 or more")


def group_size(asked: int | None, count: int, elements: int, device: torch.device) -> int:
    """Videos of a group, the same for any number of processes; `elements` are those of a video's latents."""
    return min(count, GROUP, *gather(auto_batch(elements, device))) if asked is None else asked


def groups(count: int, size: int) -> list[range]:
    """The videos of each group of this process; those from `count` on are made too, and are to be left out."""
    process = Process.this()
    each = -(-count // (size * process.count))
    numbers = range(process.rank * each, (process.rank + 1) * each)
    return [range(number * size, (number + 1) * size) for number in numbers]


def how_sampled(solver: Solver, *, guidance: float, seed: int) -> dict[str, Any]:
    """As FakeSource has it."""
    return {"sampler": solver.sampler.name, "steps": len(solver.grid), "eta": solver.eta, "guidance": guidance, "seed": seed}


def model_facts(files: Sequence[Path], how: dict[str, Any]) -> FakeSource:
    """Of a model file, or of two where another model fills gaps."""
    return FakeSource(
        kind="model",
        name=" + ".join(f"{path.parent.name}/{path.name}" for path in files),
        sha256=" + ".join(map(sha256_of, files)),
        is_ema=all(read_info(path).config.get("average") != 0 for path in files),
        **how,
    )
