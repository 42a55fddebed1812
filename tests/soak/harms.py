"""What is done to a run, and what must hold afterwards: SIGKILL, a full disk, little memory, the death of one of two processes.

Each function makes one try from a seed and returns what went wrong. The run is started again after the harm, and all that it
leaves is compared with the twin that was left alone.
"""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from soak.processes import Ranks, Run
from soak.works import STATE, Content, Work, differences

PATIENCE = 600.0  # seconds in which any run of a work must end
BOUND = 60.0  # seconds in which a process must notice that the other one is gone
DISK = 24 << 20  # bytes of the small disk


@dataclass
class Try:
    """One try: its seed, what was done, what went wrong."""

    kind: str
    seed: int
    kills: int = 0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Twin:
    """What a work leaves when it is left alone, and how long it takes."""

    content: Content
    seconds: float


def unharmed(work: Work, at: Path) -> Twin:
    work.clear()
    run = Run(work.script, work.arguments, at / "twin.txt")
    status = run.wait(PATIENCE)
    assert status == 0, f"the twin of {work.name} ended with {status}: {run.text()[-2000:]}"
    return Twin(work.content(), time.monotonic() - run.start)


def finish(work: Work, at: Path, twin: Twin, one: Try) -> None:
    """Start once more, to the end, and compare."""
    run = Run(work.script, work.arguments, at / "resumed.txt")
    status = run.wait(PATIENCE)
    if status != 0:
        run.kill()
        one.wrong.append(f"the resumed run ended with {status}: {_last_line(run.text())}")
        return
    one.wrong += differences(twin.content, work.content())[:10]
    one.notes += [f"left over: {name}" for name in work.leftovers()]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][-400:] if lines else "it said nothing"


# SIGKILL -------------------------------------------------------------------------------------------------------------------


def kill(work: Work, at: Path, twin: Twin, seed: int, most: int) -> Try:
    """One to three kills, each at a random moment of a run, then a run to the end."""
    rng = random.Random(seed)
    one = Try(work.name, seed)
    work.clear()
    for _ in range(min(most, rng.randint(1, 3))):
        run = Run(work.script, work.arguments, at / "killed.txt")
        if run.wait(rng.uniform(0.02, 1) * twin.seconds) is None:
            one.kills += run.kill()
        elif run.status != 0:
            one.wrong.append(f"a run after a kill ended with {run.status}: {_last_line(run.text())}")
            return one
    finish(work, at, twin, one)
    return one


# Too little disk or memory -------------------------------------------------------------------------------------------------


def begun(work: Work, run: Run, rng: random.Random, twin: Twin) -> bool:
    """Wait until there is something to lose, then a random part of the rest; whether it still runs."""
    while run.is_alive() and not (work.folder / work.progress).exists():
        time.sleep(0.002)
    return run.wait(rng.uniform(0, 0.3) * twin.seconds) is None


def older_checkpoint(work: Work, one: Try) -> None:
    """The run has a whole checkpoint."""
    try:
        state = torch.load(work.folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
        one.notes.append(f"it stood at step {state['global_step']}")
        if missing := [part for part in STATE if part not in state]:
            one.wrong.append(f"the older checkpoint lacks {missing}")
    except (OSError, RuntimeError, EOFError) as error:
        one.wrong.append(f"the older checkpoint is not whole: {error}")


def named(run: Run, one: Try, words: tuple[str, ...], *, needs_sentence: bool) -> None:
    """A line says what was missing, with status 2 if it `needs_sentence`. Status 0 means that it was enough after all."""
    status, text = run.wait(PATIENCE), run.text()
    telling = [line for line in text.splitlines() if any(word in line for word in words)]
    said = telling[-1] if telling else _last_line(text)  # Python may say more while it ends
    if status == 0:
        one.notes.append("it ended without needing more")
    elif status is None:
        run.kill()
        one.wrong.append("it did not end")
    elif not any(word in said for word in words):
        one.wrong.append(f"status {status}, and no word about it: {said}")
    elif status != 2 or "Traceback (most recent call last)" in run.text():
        (one.wrong if needs_sentence else one.notes).append(f"status {status}, a traceback instead of a sentence: {said}")


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk that can be full, if this machine lets one be made (root); whether it does."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, check=False) if shutil.which("mount") else None
    is_mounted = done is not None and done.returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(work: Work, at: Path, twin: Twin, seed: int, is_mounted: bool) -> Try:
    """The disk fills up in the middle of a run that has a checkpoint. Without a disk of its own the size of files is limited."""
    rng, one = random.Random(seed), Try("full disk", seed)
    work.clear()
    run = Run(work.script, work.arguments, at.with_name("disk.txt"))
    filler = at / "filler"
    if begun(work, run, rng, twin):
        size = (work.folder / work.progress).stat().st_size
        if is_mounted:
            _fill(filler, at, leave=rng.randrange(size))
        else:
            run.limit(resource.RLIMIT_FSIZE, rng.randrange(1, size))
        one.kills = 1
    named(run, one, ("space", "full", "large", "big", "checkpoint"), needs_sentence=True)
    older_checkpoint(work, one)
    filler.unlink(missing_ok=True)
    finish(work, at, twin, one)
    return one


def _fill(filler: Path, at: Path, leave: int) -> None:
    """All that is free but so much; the run may take some of it meanwhile."""
    with filler.open("wb", buffering=0) as file:
        try:
            while (free := shutil.disk_usage(at).free - leave) > 0:
                file.write(bytes(min(free, 1 << 20)))
        except OSError:
            return


def little_memory(work: Work, at: Path, twin: Twin, seed: int) -> Try:
    """From a random moment of training on, the process gets no more memory than it has, or somewhat less."""
    rng, one = random.Random(seed), Try("memory", seed)
    work.clear()
    run = Run(work.script, work.arguments, at / "memory.txt")
    if begun(work, run, rng, twin):
        run.limit(resource.RLIMIT_AS, int(run.memory() * rng.choice([0.5, 0.9, 1.0])))
        one.kills = 1
    named(run, one, ("memory",), needs_sentence=False)
    run.kill()  # workers
    older_checkpoint(work, one)
    finish(work, at, twin, one)
    return one


# One of two processes ------------------------------------------------------------------------------------------------------


def unharmed_ranks(work: Work, at: Path) -> Twin:
    work.clear()
    start = time.monotonic()
    ranks = Ranks(work.script, work.arguments, at / "twin.txt")
    status = ranks.wait(PATIENCE)
    assert status == [0, 0], f"the twin in two processes ended with {status}: {ranks.text()[-2000:]}"
    return Twin(work.content(), time.monotonic() - start)


def lost_rank(work: Work, at: Path, twin: Twin, seed: int) -> Try:
    """SIGKILL to one of two processes after the first checkpoint; the other one ends by itself, and the run is resumed."""
    rng, one = random.Random(seed), Try("one of two processes", seed)
    work.clear()
    ranks = Ranks(work.script, work.arguments, at / "ranks.txt")
    victim, other = rng.sample(ranks.runs, 2)
    if begun(work, ranks.runs[0], rng, twin):
        one.kills = int(victim.kill())
        start = time.monotonic()
        if other.wait(BOUND) is None:
            one.wrong.append(f"rank {ranks.runs.index(other)} still ran {BOUND:g} s after the other one was killed")
        else:
            said = f"rank {ranks.runs.index(other)} ended {time.monotonic() - start:.1f} s after the other one"
            one.notes.append(f"{said} with {other.status}: {_last_line(other.text())[:200]}")
    ranks.kill()
    older_checkpoint(work, one)
    resumed = Ranks(work.script, work.arguments, at / "resumed.txt")
    status = resumed.wait(PATIENCE)
    resumed.kill()
    if status == [0, 0]:
        one.wrong += differences(twin.content, work.content())[:10]
    else:
        one.wrong.append(f"the resumed run ended with {status}: {_last_line(resumed.text())}")
    return one
