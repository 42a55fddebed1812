"""One input: a command with its arguments and files, how it is run, and what may come of it.

A case is held if the command ends with status 0 or 2, status 2 with one sentence on stderr, within its time, without a violation.
`@AT@` in arguments and texts is the folder of the run, `@MADE@` the folder of good inputs (`inputs_good.py`).
"""

from __future__ import annotations

import base64
import contextlib
import faulthandler
import io
import json
import os
import re
import runpy
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import torch

from fuzz.audit import ROOT, audited
from fuzz.verbs import VERBS

CPU_SECONDS, WALL_SECONDS, HARD_SECONDS = 20, 90, 150
SENTENCE = 1200  # characters of one or two sentences that quote what came ...
REPEATED = re.compile(r"(.)\1{50,}")  # ... apart from the long names of the mutations
TEXTS = (".yaml", ".csv", ".tsv", ".jsonl", ".txt")
SECRET = "secret.mp4"  # lies next to the run's folder, and no table may name it


class TooSlow(BaseException):
    """The time is over; no handler of the library may take it for an error of its own."""


@dataclass(frozen=True)
class Case:
    """One input. A file is its content, `link:TARGET`, `fifo:` or `folder:`."""

    command: str
    arguments: tuple[str, ...]
    files: dict[str, bytes | str] = field(default_factory=dict)

    def size(self) -> int:
        return sum(map(len, self.arguments)) + sum(len(name) + len(content) for name, content in self.files.items())

    def save(self, path: Path) -> None:
        files = {n: c if isinstance(c, str) else {"base64": base64.b64encode(c).decode()} for n, c in self.files.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**asdict(self), "files": files}, indent=1))

    @staticmethod
    def load(path: Path) -> Case:
        read = json.loads(path.read_text())
        files = {n: c if isinstance(c, str) else base64.b64decode(c["base64"]) for n, c in read["files"].items()}
        return Case(read["command"], tuple(read["arguments"]), files)


@dataclass(frozen=True)
class Outcome:
    """What came of a case; `failure` is None if it held, else a name that equal failures share."""

    status: int | None
    failure: str | None = None
    details: str = ""


@cache
def commands() -> dict[str, Callable[[list[str]], int]]:
    return {script.stem: runpy.run_path(str(script))["main"] for script in (ROOT / "scripts").glob("*.py")}


def run(case: Case, at: Path, made: Path) -> Outcome:
    """Run one case in the folder `at`, which is emptied before."""
    shutil.rmtree(at, ignore_errors=True)
    (at / "tmp").mkdir(parents=True)
    write_files(case, at, made)
    secret = at.parent / SECRET
    arguments = [_filled(argument, at, made) for argument in case.arguments]
    work = VERBS.get(case.command) or commands()[case.command]
    out, err, status, failure, details = io.StringIO(), io.StringIO(), None, None, ""
    quiet = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with _in_folder(at), quiet[0], quiet[1], audited(at, secrets=(secret,)) as violations:
        try:
            with _limits():
                status = work(arguments)
        except SystemExit as error:
            status = error.code
        except (Exception, TooSlow) as error:
            failure, details = _signature(error), traceback.format_exc()
    if violations:
        failure, details = f"violation: {violations[0]:.80}", "\n".join(violations) + f"\n{details}"
    failure = failure or _complaint(status, err.getvalue())
    return Outcome(status, failure, details or err.getvalue())


def write_files(case: Case, at: Path, made: Path) -> None:
    for name, content in case.files.items():
        path = at / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            if name.endswith(TEXTS):
                content = content.replace(b"@AT@", os.fsencode(at)).replace(b"@MADE@", os.fsencode(made))
            path.write_bytes(content)
            continue
        kind, _, target = content.partition(":")
        {"link": lambda p, t=target: p.symlink_to(t), "fifo": os.mkfifo, "folder": Path.mkdir}[kind](path)


def _filled(text: str, at: Path, made: Path) -> str:
    return text.replace("@AT@", str(at)).replace("@MADE@", str(made))


@contextlib.contextmanager
def _in_folder(at: Path) -> Iterator[None]:
    before, argv, temporary = Path.cwd(), sys.argv, tempfile.tempdir
    os.environ |= {"LVDM_CACHE": str(at / "cache"), "LVDM_WEIGHTS": str(at / "weights"), "LVDM_OFFLINE": "1"}
    sys.argv, tempfile.tempdir = ["it"], str(at / "tmp")
    os.chdir(at)
    try:
        yield
    finally:
        os.chdir(before)
        sys.argv, tempfile.tempdir = argv, temporary
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Processor time, then time on the clock; a call into C that does not come back ends the process."""

    def over(number: int, _: object) -> None:
        raise TooSlow(f"{CPU_SECONDS} s of processor time" if number == signal.SIGPROF else f"{WALL_SECONDS} s")

    before = {number: signal.signal(number, over) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    faulthandler.dump_traceback_later(HARD_SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _signature(error: BaseException) -> str:
    """The kind of an error and the last function of lvdm that it came through."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if str(ROOT / "lvdm") in frame.filename]
    last = f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].name}" if ours else "outside lvdm"
    return f"{type(error).__name__} in {last}"


def _complaint(status: object, said: str) -> str | None:
    """What is wrong with a status and what stands on stderr."""
    if status not in (0, 2):
        return f"status {status!r}"
    if "Traceback (most recent call last)" in said:
        return "a traceback on stderr"
    sentences = [line for line in said.splitlines() if line.startswith("it: ") or ": error: " in line]
    if status == 2 and len(sentences) != 1:
        return f"{len(sentences)} sentences at status 2"
    shown = [REPEATED.sub("", sentence) for sentence in sentences]
    return f"a sentence of over {SENTENCE} characters" if status == 2 and len(shown[0]) > SENTENCE else None
