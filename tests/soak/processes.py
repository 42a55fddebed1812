"""Commands in processes of their own: forked from this one, which has imported the libraries, so that a start costs no seconds.

This process itself computes nothing with more than one thread, since a forked one would lack the others.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]


class Run:
    """A command in a forked process and session; what it says goes to a file."""

    def __init__(self, script: str, arguments: Sequence[str], said: Path) -> None:
        self.said, self.status, self.start = said, None, time.monotonic()
        main = importlib.import_module(f"lvdm.cli.{script}").main
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._work(script, main, list(arguments))

    def _work(self, script: str, main: Any, arguments: list[str]) -> None:
        """In the child; never returns."""
        status = 1
        try:
            os.setsid()
            with self.said.open("wb", buffering=0) as file, open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), 0)
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.argv = [script]
            torch.set_num_threads(1)
            status = main(arguments)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:  # whatever it is, this process must not go on as the parent
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def is_alive(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def wait(self, seconds: float) -> int | None:
        """Its status; None if it does not end in time."""
        deadline = time.monotonic() + seconds
        while self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        return self.status

    def kill(self) -> bool:
        """SIGKILL to it and its workers; whether it was still running."""
        was_alive = self.is_alive()
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.wait(30)
        return was_alive

    def limit(self, what: int, value: int) -> None:
        """Lower a limit of the running process (Linux)."""
        resource.prlimit(self.pid, what, (value, resource.RLIM_INFINITY))

    def memory(self) -> int:
        """Bytes of its address space."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[0]) * resource.getpagesize()

    def text(self) -> str:
        return self.said.read_text(errors="replace")


class Ranks:
    """scripts/train.py with two processes: a program of its own, since Lightning starts the second one from its command line."""

    def __init__(self, arguments: Sequence[str], said: Path) -> None:
        self.said = said
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), *arguments, "trainer.devices=2"]
        with said.open("wb") as file:
            self.main = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)

    def pids(self) -> list[int]:
        """Rank 0, then rank 1 if it has begun."""
        children = Path(f"/proc/{self.main.pid}/task/{self.main.pid}/children")
        others = [int(word) for word in children.read_text().split()] if children.exists() else []
        return [self.main.pid, *(pid for pid in others if b"train.py" in _command(pid))]

    def wait(self, seconds: float) -> int | None:
        try:
            return self.main.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Whatever is left of it."""
        try:
            os.killpg(self.main.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.main.wait()

    def text(self) -> str:
        return self.said.read_text(errors="replace")


def _command(pid: int) -> bytes:
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes() if path.exists() else b""


def is_running(pid: int) -> bool:
    """Not ended, nor ended and not yet waited for."""
    path = Path(f"/proc/{pid}/stat")
    try:
        return path.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
