"""Commands in processes of their own: forked from this one, which has imported the libraries, so that a start costs no seconds.

This process itself computes nothing with more than one thread, since a forked one would lack the others.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]


class Run:
    """A command in a forked process and session; what it says goes to a file."""

    def __init__(self, script: str, arguments: Sequence[str], said: Path, environment: Mapping[str, str] | None = None) -> None:
        self.said, self.status, self.start = said, None, time.monotonic()
        main = importlib.import_module(f"lvdm.cli.{script}").main
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.environ |= environment or {}
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
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
            sys.argv = [script]
            torch.set_num_threads(1)
            status = main(arguments)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:  # whatever it is, this process must not continue as the parent
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
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
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
    """The same command in two processes that know of each other as torchrun tells them."""

    def __init__(self, script: str, arguments: Sequence[str], said: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= {"TORCHELASTIC_RUN_ID": "soak", "GROUP_RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}
        self.runs = [
            Run(
                script,
                arguments,
                said.with_name(f"rank{rank}-{said.name}"),
                {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]

    def wait(self, seconds: float) -> list[int | None]:
        """The status of each; None for one that does not end in time."""
        deadline = time.monotonic() + seconds
        return [run.wait(max(0.0, deadline - time.monotonic())) for run in self.runs]

    def kill(self) -> None:
        for run in self.runs:
            run.kill()

    def text(self) -> str:
        return "\n".join(run.text() for run in self.runs)


def is_running(pid: int) -> bool:
    """Not ended, nor ended and not yet waited for."""
    path = Path(f"/proc/{pid}/stat")
    try:
        return path.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
