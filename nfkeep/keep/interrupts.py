"""Keeps Ctrl-C and SIGTERM from landing in the middle of a change; they take effect right behind it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_DEFERRED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Note the signals that arrive inside the block and raise them again after it.

    Python runs handlers in the main thread alone, so elsewhere there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    before = {number: signal.getsignal(number) for number in _DEFERRED}
    # None: a handler that was not set from Python, which cannot be put back; SIG_IGN stays ignored.
    ours = {number for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in ours:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
        for arrival in dict.fromkeys(arrived):
            signal.raise_signal(arrival)
