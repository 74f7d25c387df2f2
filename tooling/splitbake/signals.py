"""Signals that wait: what must not be left half done is done first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def uninterrupted(*, breakable: bool = False) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP wait for the end of the block; the first of them then counts, if it fails or not.

    One that is ignored, as SIGHUP under nohup, stays so. Python handles signals in the main thread; elsewhere there is
    nothing to wait for.

    Args:
        breakable: a second Ctrl-C ends the block at once. For what may take minutes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def hold(number: int, _frame: Any) -> None:
        again = number == signal.SIGINT and number in arrived
        arrived.append(number)
        if breakable and again:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, hold) for number in _ENDINGS if _is_heard(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def _is_heard(number: int) -> bool:
    """Whether this process does not ignore the signal."""
    return signal.getsignal(number) is not signal.SIG_IGN
