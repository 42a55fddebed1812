"""`python -m fuzz`: families of inputs in turn, their failures saved as cases that run again.

A child process runs them. One that a crash of C code ends is replaced, and the case that it was at is a failure too.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

CONFIGS = ("train", "encode", "eval", "convert", "benchmark", "shipped")
FAMILIES = {  # name: share of the time, and of the examples of a short run
    **{f"config of {kind}": 1.0 for kind in CONFIGS[:-1]},
    **{"config of eval": 0.5, "config of full size": 0.3},  # take a second each
    **{"model file": 1.5, "model file, one bit": 0.5, "checkpoint": 1.5, "checkpoint, one bit": 0.5},
    **{"videos": 1.5, "tables": 1.0, "tar members": 1.0},
}
MEMORY = 8 << 30  # bytes more than a process has when it begins
SLICE = 30.0  # seconds of a family, times its share, before the next one


def strategy(family: str, made: Path) -> st.SearchStrategy[Any]:
    from fuzz import inputs_data, inputs_models

    if family.startswith("config of "):
        kind = family.removeprefix("config of ")
        return inputs_models.configured("shipped" if kind == "full size" else kind)
    makers: dict[str, Callable[[Path], st.SearchStrategy[Any]]] = {
        "model file": inputs_models.model_file,
        "model file, one bit": inputs_models.model_damage,
        "checkpoint": inputs_models.checkpoint,
        "checkpoint, one bit": inputs_models.checkpoint_damage,
        "videos": inputs_data.videos,
        "tables": inputs_data.tables,
        "tar members": inputs_data.shards,
    }
    return makers[family](made)


# A round: every family for some time, in a child process ---------------------------------------------------------------------


class Over(BaseException):
    """The time of a family is over; hypothesis lets this through, and would not stop for a return."""


class Tries:
    """Runs cases of one family, counts them, keeps the smallest of each kind of failure."""

    def __init__(self, family: str, out: Path, until: float) -> None:
        from fuzz import cases

        self.run, self.family, self.out, self.until = cases.run, family, out, until
        self.at, self.made, self.work = out / "work" / "at", out / "made", out / "work"
        self.counts: dict[str, int] = {}

    def function(self) -> Callable[[Any], None]:
        """What hypothesis calls: a function, for it takes no method."""

        def try_one(case: Any) -> None:
            self.try_one(case)

        return try_one

    def try_one(self, case: Any) -> None:
        if time.monotonic() > self.until:
            raise Over
        case.save(self.work / "case.json")
        outcome = self.run(case, self.at, self.made)
        status = "failed" if outcome.failure else f"status {outcome.status}"
        self.counts[status] = self.counts.get(status, 0) + 1
        if outcome.failure:
            keep(self.out, self.family, outcome.failure, outcome.details, case)
        (self.work / f"{self.family}.json").write_text(json.dumps(self.counts))


def keep(out: Path, family: str, failure: str, details: str, case: Any) -> None:
    """The smallest case of a failure stays, with what came of it."""
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{family} {failure}")[:120]
    folder = out / "failures" / name
    known = folder / "case.json"
    if known.exists() and known.stat().st_size <= case.size():
        return
    case.save(known)
    (folder / "what.json").write_text(json.dumps({"family": family, "failure": failure}))
    (folder / "details.txt").write_text(details[-20_000:], errors="replace")


def run_round(arguments: argparse.Namespace) -> None:
    """What the child does."""
    _bound()
    phases, checks = [Phase.generate], list(HealthCheck)
    for family in arguments.family:
        share = FAMILIES[family]
        tries = Tries(family, arguments.out, time.monotonic() + arguments.seconds * share)
        count = max(1, int(arguments.examples * share)) if arguments.examples else 10**6
        profile = settings(max_examples=count, deadline=None, database=None, phases=phases, suppress_health_check=checks)
        with suppress(Over):
            seed(arguments.seed)(profile(given(strategy(family, tries.made))(tries.function())))()


def _bound() -> None:
    """No log, one thread, a bound on memory."""
    import torch

    logging.getLogger().addHandler(logging.NullHandler())
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


def run_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rounds until the time is over, or one of so many examples."""
    out, start = arguments.out.resolve(), time.monotonic()
    end = start + 60 * arguments.minutes if arguments.minutes else float("inf")
    tried: dict[str, dict[str, int]] = {family: {} for family in arguments.family}
    numbers = random.Random(arguments.seed)
    shares = sum(FAMILIES[family] for family in arguments.family)
    try:
        while (left := end - time.monotonic()) > 0:
            number = arguments.seed if arguments.examples else numbers.getrandbits(32)
            _round(arguments, out, number, 10 * SLICE if arguments.examples else min(SLICE, left / shares), tried)
            for family, counts in tried.items():
                print(f"{family}: {sum(counts.values())} inputs {counts}", flush=True)
            if arguments.examples:
                break
    except KeyboardInterrupt:
        pass
    return report(arguments, out, tried, time.monotonic() - start)


def _round(arguments: argparse.Namespace, out: Path, number: int, seconds: float, tried: dict[str, dict[str, int]]) -> None:
    """A child for all families; one that did not end by itself is a failure, and another child takes the families after it."""
    from fuzz.cases import Case

    shutil.rmtree(out / "work", ignore_errors=True)
    (out / "work").mkdir(parents=True)
    families = list(arguments.family)
    while families:
        options = ["--seed", str(number), "--seconds", str(seconds), "--examples", str(arguments.examples)]
        options += [word for family in families for word in ("--family", family)]
        with (out / "work" / "output.txt").open("wb") as output:
            command = [sys.executable, "-m", "fuzz", "--out", str(out), "--round", *options]
            status = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, check=False).returncode
        if status == 0:
            break
        said = (out / "work" / "output.txt").read_text(errors="replace")
        begun = [family for family in families if (out / "work" / f"{family}.json").exists()]
        if not (out / "work" / "case.json").exists() or "in run_round" in said:
            raise RuntimeError(f"the fuzzer itself failed: {said[-3000:]}")
        at = begun[-1] if begun else families[0]
        keep(out, at, f"the process ended with {status}", said[-5000:], Case.load(out / "work" / "case.json"))
        tried[at]["failed"] = tried[at].get("failed", 0) + 1
        families = families[families.index(at) + 1 :]
    for family in arguments.family:
        found = out / "work" / f"{family}.json"
        for kind, count in (json.loads(found.read_text()) if found.exists() else {}).items():
            tried[family][kind] = tried[family].get(kind, 0) + count


def report(arguments: argparse.Namespace, out: Path, tried: dict[str, dict[str, int]], seconds: float) -> dict[str, Any]:
    """The figures, and each kind of failure with the command that repeats it."""
    failures = []
    for folder in sorted((out / "failures").glob("*")):
        failures.append({**json.loads((folder / "what.json").read_text()), "case": str(folder / "case.json")})
    counts = {family: {"inputs": sum(each.values()), **each} for family, each in tried.items()}
    return {
        "date": str(date.today()),
        "seed": arguments.seed,
        "seconds": round(seconds),
        "families": counts,
        "failures": failures,
    }


def again(path: Path, out: Path) -> int:
    from fuzz import cases

    outcome = cases.run(cases.Case.load(path), out / "work" / "at", out / "made")
    print(f"status {outcome.status}, failure: {outcome.failure}\n{outcome.details}")
    return int(outcome.failure is not None)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz.sh", description="Mutated inputs for every command, under an audit hook.")
    parser.add_argument("--minutes", type=float, help="how long; left out, until it is interrupted, or --examples are done")
    parser.add_argument("--examples", type=int, default=0, help="so many inputs a family, once, instead of a time")
    parser.add_argument("--family", action="append", choices=list(FAMILIES), help="only this family; may be repeated")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run; left out, a random one, which is printed")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/fuzz"), help="good inputs, failures and figures (default runs/fuzz)"
    )
    parser.add_argument("--again", type=Path, metavar="CASE", help="run this saved case.json alone")
    parser.add_argument("--round", action="store_true", help=argparse.SUPPRESS)  # this process is the child of a round
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.seed = random.SystemRandom().getrandbits(32) if arguments.seed is None else arguments.seed
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.round:
        run_round(arguments)
        return 0
    os.environ["OMP_NUM_THREADS"] = "1"
    if not (arguments.out / "made" / "shard.tar").exists():
        from fuzz.inputs_good import make

        shutil.rmtree(arguments.out / "made", ignore_errors=True)
        make((arguments.out / "made").resolve())
    if arguments.again:
        return again(arguments.again, arguments.out.resolve())
    arguments.family = arguments.family or list(FAMILIES)
    print(f"seed {arguments.seed}", flush=True)
    figures = run_all(arguments)
    (arguments.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    for failure in figures["failures"]:
        print(f"{failure['family']}: {failure['failure']}\n    again: bash shellscripts/fuzz.sh --again {failure['case']}")
    total = sum(each["inputs"] for each in figures["families"].values())
    print(f"{total} inputs in {figures['seconds']} s, {len(figures['failures'])} kinds of failure")
    return int(bool(figures["failures"]))


if __name__ == "__main__":
    sys.exit(main())
