"""The parts of every command: a parser with an example, user errors in one sentence with exit status 2, and `--json`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from lvdm.batching import OutOfMemory
from lvdm.config.targets import ALLOW
from lvdm.files import why_not_written, write_whole
from lvdm.processes import machine
from lvdm.types import UserError, first_line
from lvdm.version import __version__

TERMINATED = 128 + signal.SIGTERM  # the exit status of shells
Report = dict[str, Any]  # what a command did and measured


class Stopped(Exception):
    """The work was stopped by a signal, and its state is saved."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what a command was writing is removed, as after Ctrl-C."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated inside if SIGTERM comes; a caller's own handler stays."""
    is_ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_ours:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def parser(description: str, *, example: str) -> argparse.ArgumentParser:
    """Return an argument parser with `--json`, whose help ends with a command that works."""
    made = argparse.ArgumentParser(
        description=description, epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write a JSON report to FILE")
    return made


def add_config(parse: argparse.ArgumentParser) -> None:
    """Add the config files and overrides, which `config_of` divides, and `--allow-module`."""
    parse.add_argument("config", nargs="+", help="YAML files, merged left to right, then key=value overrides")
    add_allow_module(parse)


def config_of(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the config files and the key=value overrides among the words of a command line."""
    return [word for word in words if "=" not in word], [word for word in words if "=" in word]


def add_allow_module(parse: argparse._ActionsContainer) -> None:
    """Add `--allow-module` for commands that build the classes of a config."""
    parse.add_argument(
        "--allow-module",
        action="append",
        default=[],
        metavar="NAME",
        help="a package of yours whose classes a config or file may name; repeat for more",
    )


def run(parse: argparse.ArgumentParser, work: Callable[[argparse.Namespace], Report], argv: Sequence[str] | None = None) -> int:
    """Parse, work, report. The exit status is 0, 2 for a user's error, 1 for the machine's, 130 or 143 after a signal."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse.parse_intermixed_args(argv)  # overrides may stand after options
    start = time.perf_counter()
    if getattr(args, "allow_module", None) and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # where the user's own modules lie
    try:
        report = work(args)
        if args.json is not None:
            facts = {"command": parse.prog, "version": __version__, "seconds": time.perf_counter() - start, **machine()}
            write_text(args.json, json.dumps({**facts, **report}, indent=2, default=str) + "\n")
    except (MemoryError, RuntimeError) as error:
        if (sentence := explained(error)) is None:
            raise
        print(f"{parse.prog}: {sentence}", file=sys.stderr)
        return 1
    except (UserError, OSError) as error:
        print(f"{parse.prog}: {_sentence(error)}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"{parse.prog}: {stop}", file=sys.stderr)
        return stop.status
    except Terminated:
        print(f"{parse.prog}: terminated", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print(f"{parse.prog}: interrupted", file=sys.stderr)
        return 130
    return 0


NO_MEMORY = ("Cannot allocate memory", "can't allocate memory", "out of memory", "not enough memory", "bad_alloc")
LOST_PROCESS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "Socket Timeout")


def explained(error: BaseException) -> str | None:
    """Return one sentence for an error of the machine: too little memory, or another process that ended; else None."""
    reason = first_line(error)
    if isinstance(error, OutOfMemory):
        return reason
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        return f"there is too little memory ({reason or 'MemoryError'}); lower the batch size, or close other programs"
    is_shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    if is_shared and (isinstance(error, torch.distributed.DistError) or any(words in str(error) for words in LOST_PROCESS)):
        return f"another process of this run has ended ({reason}); see what it printed, then start all of them again"
    return None


def write_text(path: Path, text: str) -> None:
    """Write a file that readers find complete or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda temporary: temporary.write_text(text))
    except OSError as error:
        raise UserError(f"cannot write {path}: {why_not_written(error)}; free space or choose another path") from error


def _sentence(error: Exception) -> str:
    """Return the error in one sentence, with flags in place of the library's arguments."""
    if isinstance(error, OSError) and error.strerror:
        why = why_not_written(error)
        return f"{why}: {error.filename}" if error.filename else why
    return str(error).replace(ALLOW, "--allow-module NAME")
