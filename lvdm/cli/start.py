"""The start of a command, so that Ctrl-C is never a traceback: not while modules are imported, nor while the process exits.

This module imports nothing slow. `from lvdm.cli.start import train` gives a function that imports `lvdm.cli.train` when it is
called, and runs its `main`; scripts and console scripts both start by it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType

INTERRUPTED = 130  # the exit status of shells after Ctrl-C


def __getattr__(name: str) -> Callable[..., int]:
    if name.startswith("_") or not Path(__file__).with_name(f"{name}.py").exists():
        raise AttributeError(f"there is no command {name} in lvdm.cli")
    return partial(start, name)


def start(command: str, argv: Sequence[str] | None = None) -> int:
    """Import a command and run it; return its exit status. With `argv` the caller is a program, which keeps its own signals."""
    if argv is not None or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # a shell's `&` ignores Ctrl-C
        return import_module(f"lvdm.cli.{command}").main(argv)
    signal.signal(signal.SIGINT, _leave)
    main = import_module(f"lvdm.cli.{command}").main
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on there may be something to put in order
        return main()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process at once: an exception could be swallowed, or printed, by whatever module is being imported."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
