"""A limit on how long reading may take: now and then a library, or a folder of another machine, never answers.

The work is done by a thread that then waits for the next: starting one for each clip of small images took a third of its time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from lvdm.types import UserError

Result = TypeVar("Result")
Calls = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]  # of one thread, which ends at None

_idle: list[Calls] = []  # of the thread that waits, if one does
os.register_at_fork(after_in_child=_idle.clear)  # a forked process has no thread of its parent


def within(seconds: float, work: Callable[[], Result], *, reading: str) -> Result:
    """What `work` gives, or UserError after so many seconds. Nothing can stop a call into a library or a file system from
    outside, so the thread that it holds is left behind; as a daemon it does not keep the process alive."""
    calls, future = _thread(), Future[Result]()
    calls.put((future, work))
    is_done = bool(wait([future], seconds).done)
    if is_done and not _idle:
        _idle.append(calls)
    else:
        calls.put(None)
    if not is_done:
        raise UserError(f"cannot read {reading}: no answer within {seconds:g} s")
    try:
        return future.result()
    finally:
        del future, work  # an error keeps this frame: a circle of them would keep readers alive beyond their use


def _thread() -> Calls:
    try:
        return _idle.pop()
    except IndexError:
        calls: Calls = SimpleQueue()
        Thread(target=_serve, args=(calls,), daemon=True).start()
        return calls


def _serve(calls: Calls) -> None:
    while (call := calls.get()) is not None:
        future, work = call
        del call
        _fulfil(future, work)
        del future, work  # for the same reason


def _fulfil(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # raised again where the result is asked for
        future.set_exception(error)
    finally:
        del future, work
