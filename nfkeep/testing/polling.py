"""Waiting for what tells nobody that it happened.

What has an event of its own is better waited for there, as `EchoServer.wait_for` and `Transfer.wait_for` do.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["wait_until"]


def wait_until(predicate: Callable[[], bool], timeout: float = 5.0, interval: float = 0.01) -> bool:
    """Poll until `predicate()` holds or `timeout` seconds are over; only for what has no event to wait for."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True
