"""A limit on how long reading may take: sometimes a library, or a folder of another machine, never answers.

A thread does the work and then waits for the next call. Starting one for each clip of small images took a third of the time.
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

_idle: list[Calls] = []  # the queue of the waiting thread, if there is one
os.register_at_fork(after_in_child=_idle.clear)  # a forked process has no thread of its parent


def within(seconds: float, work: Callable[[], Result], *, reading: str) -> Result:
    """Return the result of `work`; raise a UserError after so many seconds.

    Nothing outside can stop a call into a library or a file system, so its thread is abandoned. As a daemon it does not keep the
    process alive.
    """
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
        del future, work  # an error keeps this frame, and a reference cycle would keep readers alive after use


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
        _run(future, work)
        del future, work  # for the same reason


def _run(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # raised again by future.result()
        future.set_exception(error)
    finally:
        del future, work
