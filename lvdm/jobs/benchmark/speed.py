"""How fast a piece of work runs, and how fast this machine could: seconds, FLOP, the rate of matrix products, memory.

FLOP are those of matrix products, convolutions and attention, two for a multiply-add, counted while the work runs once.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

MATMUL_SIDE = 2048  # of the square matrices that the machine's rate is measured on
MATMUL_REPEATS = 5
MATMULS_AT_ONCE = {"cpu": 1, "cuda": 50}  # between two looks at the clock, which wait for a GPU

Call = Callable[[], object]  # one step of the work


@dataclass(frozen=True)
class Figures:
    """Figures of one piece of work; a step is one batch."""

    seconds: float  # a step, median
    seconds_quartiles: tuple[float, float]
    videos_per_second: float
    gflop: float  # a step
    gflop_per_second: float
    matmul_gflop_per_second: float  # the machine's
    share_of_matmul: float  # gflop_per_second over it
    peak_memory_gib: float  # on a GPU, of this stage's tensors; on a CPU, of the whole process until here


@dataclass(frozen=True)
class Machine:
    """The device of a measurement, and its type of numbers."""

    device: torch.device
    dtype: torch.dtype


def measure(call: Call, machine: Machine, *, name: str, videos: int, steps: int, warmup: int, is_compiled: bool) -> Figures:
    """Measure `steps` calls after `warmup` others, each of so many videos, and then the machine's own rate."""
    device = machine.device
    gflop = count_flop(call, is_compiled=is_compiled) / 1e9
    seconds = []
    for step in tqdm(range(warmup + steps), desc=name, unit="step", mininterval=1.0, leave=False):
        if step == warmup and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # the compiler and cuDNN's trials are over
        seconds.append(timed(call, device))
    peak = peak_memory(device)
    rate = matmul_rate(machine) / 1e9
    low, median, high = np.quantile(seconds[warmup:], [0.25, 0.5, 0.75]).tolist()
    speed = gflop / median
    return Figures(median, (low, high), videos / median, gflop, speed, rate, speed / rate, peak / 2**30)


def count_flop(call: Call, *, is_compiled: bool = False) -> int:
    """Return the FLOP of one call. Compiled networks run uncompiled, because the counter sees nothing inside them."""
    eager = torch.compiler.set_stance("force_eager") if is_compiled else nullcontext()
    with eager, FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def timed(call: Call, device: torch.device) -> float:
    """Return the seconds of a call, the device's work included."""
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(machine: Machine) -> float:
    """Return the FLOP a second of square matrix products, median."""
    a, b = torch.randn(2, MATMUL_SIDE, MATMUL_SIDE, device=machine.device, dtype=machine.dtype)
    at_once = MATMULS_AT_ONCE.get(machine.device.type, 1)

    def call() -> None:
        for _ in range(at_once):
            torch.matmul(a, b)

    call()
    seconds = [timed(call, machine.device) for _ in range(MATMUL_REPEATS)]
    return 2 * MATMUL_SIDE**3 * at_once / float(np.median(seconds))


def peak_memory(device: torch.device) -> int:
    """Return the peak in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def table(figures: dict[str, Figures], caption: str) -> str:
    """Return a row for each stage, below a caption."""
    head = ("stage", "s/step", "(25%", "75%)", "videos/s", "GFLOP/step", "GFLOP/s", "matmul's", "share", "peak GiB")
    rows: list[tuple[str, ...]] = [head]
    for name, f in figures.items():
        numbers = (f.seconds, *f.seconds_quartiles, f.videos_per_second, f.gflop, f.gflop_per_second, f.matmul_gflop_per_second)
        rows.append((name, *(f"{number:.4g}" for number in numbers), f"{f.share_of_matmul:.1%}", f"{f.peak_memory_gib:.2f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([caption, *lines])
