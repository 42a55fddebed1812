"""A limit on how long a piece of work may take, for calls into libraries that now and then never return."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

from lvdm.types import UserError

Result = TypeVar("Result")


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """What `work` gives, or UserError after so many seconds. Nothing can stop a call into a library from outside, so the thread
    that it holds is left behind; as a daemon it does not keep the process alive."""
    future: Future[Result] = Future()
    Thread(target=_fulfil, args=(future, work), daemon=True).start()
    if not wait([future], seconds).done:
        raise UserError(f"no answer within {seconds:g} s")
    try:
        return future.result()
    finally:
        del future, work  # an error keeps this frame: a circle of them would keep readers alive beyond their use


def _fulfil(future: Future[Result], work: Callable[[], Result]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # raised again where the result is asked for
        future.set_exception(error)
    finally:
        del future, work  # for the same reason
