"""Python's search for cycles, put off while values are made by the hundred thousand, none of which is in a cycle.

It looks at all of them again and again, and takes a fifth of the time of a translation.
"""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """No such search inside, on any thread."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def leave_out() -> None:
    """Have what was made until now left out of all such searches, also of that at the end: for a process near it."""
    gc.freeze()
