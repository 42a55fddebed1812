"""`python -m soak`: so many harms over all works, each try from a seed of its own, the figures as JSON."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

from soak import harms
from soak.harms import Try
from soak.works import WORKS, Work, prepare, work

OTHERS = ("full disk", "memory", "one of two processes")
Repeat = Callable[[int], Try]  # a try of a kind from its seed


def make(folder: Path) -> None:
    """The good inputs, by a process of its own."""
    if (folder / "joint" / "model.safetensors").exists():
        return
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            prepare(folder)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the good inputs could not be made"


class Kinds:
    """Every kind of harm, its twin made when it is first needed."""

    def __init__(self, out: Path) -> None:
        self.made, self.at, self.stack = out / "made", out / "at", ExitStack()
        self.ready: dict[str, Repeat] = {}
        make(self.made)

    def try_one(self, kind: str, seed: int, most: int) -> Try:
        if kind not in self.ready:
            self.ready[kind] = self._prepare(kind)
        one = self.ready[kind](seed) if kind in OTHERS else self.ready[kind](seed, most)
        return one

    def _prepare(self, kind: str) -> Callable[..., Try]:
        at = self.at / kind.replace(" ", "_")
        if kind in WORKS:
            one = self._work(kind, at)
            twin = harms.unharmed(one, at)
            return lambda seed, most: harms.kill(one, at, twin, seed, most)
        if kind == "full disk":
            disk = at / "disk"
            is_mounted = self.stack.enter_context(harms.small_disk(disk))
            one = self._work("cache", disk)
            twin = harms.unharmed(one, disk)
            return lambda seed: harms.full_disk(one, disk, twin, seed, is_mounted)
        if kind == "memory":
            one = self._work("cache", at)
            twin = harms.unharmed(one, at)
            return lambda seed: harms.little_memory(one, at, twin, seed)
        one = self._work("joint", at)
        one = replace(one, arguments=[*one.arguments, "trainer.devices=2"])
        twin = harms.unharmed_ranks(one, at)
        return lambda seed: harms.lost_rank(one, at, twin, seed)

    def _work(self, name: str, at: Path) -> Work:
        os.environ["LVDM_CACHE"] = str(at / "result" / "cache")  # goes with the result, so that a twin has a cold one
        return work(name, self.made, at)


def soak(kinds: Kinds, arguments: argparse.Namespace) -> Iterator[Try]:
    """Kills in turn over the works until there were so many, then the other harms."""
    seeds = random.Random(arguments.seed)
    done = 0
    chosen = arguments.kind or [*WORKS, *OTHERS]
    works = [kind for kind in chosen if kind in WORKS]
    while works and done < arguments.kills:
        one = kinds.try_one(works[0], seeds.getrandbits(32), arguments.kills - done)
        works = [*works[1:], works[0]]
        done += one.kills
        yield one
    for _ in range(arguments.others):
        for kind in chosen:
            if kind in OTHERS:
                yield kinds.try_one(kind, seeds.getrandbits(32), 1)


def figures(tries: list[Try], arguments: argparse.Namespace, seconds: float) -> dict[str, Any]:
    rows: dict[str, dict[str, int]] = {}
    for one in tries:
        row = rows.setdefault(one.kind, {"tries": 0, "harms": 0, "held": 0})
        row["tries"] += 1
        row["harms"] += one.kills
        row["held"] += not one.wrong
    failures = [asdict(one) for one in tries if one.wrong]
    facts = {"date": str(date.today()), "seed": arguments.seed, "seconds": round(seconds)}
    return {**facts, "kinds": rows, "failures": failures, "tries": [asdict(one) for one in tries]}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak.sh", description="Harmed runs, each compared with a twin that was left alone.")
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs in all (default 100)")
    parser.add_argument("--others", type=int, default=5, help="tries of each other harm (default 5)")
    parser.add_argument("--kind", action="append", choices=[*WORKS, *OTHERS], help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, help="repeat a run; left out, a random one, which is printed")
    parser.add_argument("--again", type=int, metavar="SEED", help="one try of --kind from its own seed, as a failure names it")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="inputs, results and figures (default runs/soak)")
    arguments = parser.parse_args()
    if arguments.again is not None and len(arguments.kind or []) != 1:
        parser.error("--again repeats a try of one kind: give --kind too")
    arguments.seed = random.SystemRandom().getrandbits(32) if arguments.seed is None else arguments.seed
    return arguments


def main() -> int:
    arguments, start = parse(), time.monotonic()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    kinds, tries = Kinds(out), []
    print(f"seed {arguments.seed}", flush=True)
    with kinds.stack:
        again = arguments.again
        for one in soak(kinds, arguments) if again is None else [kinds.try_one(arguments.kind[0], again, 3)]:
            tries.append(one)
            said = "held" if not one.wrong else f"FAILED: {'; '.join(one.wrong)}"
            print(f"{one.kind}, seed {one.seed}, {one.kills} harms: {said} {one.notes or ''}", flush=True)
            whole = figures(tries, arguments, time.monotonic() - start)
            (out / "figures.json").write_text(json.dumps(whole, indent=1) + "\n")
    for kind, row in whole["kinds"].items():
        print(f"{kind}: {row['held']} of {row['tries']} tries held, {row['harms']} harms")
    harmed = sum(row["harms"] for row in whole["kinds"].values())
    print(f"{harmed} harms in {len(tries)} tries in {whole['seconds']} s, {len(whole['failures'])} failures")
    return int(bool(whole["failures"]))


if __name__ == "__main__":
    sys.exit(main())
