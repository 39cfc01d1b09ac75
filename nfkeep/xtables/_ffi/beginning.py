"""What every change asks before it begins: one call each, nothing around it, as a small change takes 40 us in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.xtables._ffi.door import lib

if TYPE_CHECKING:
    from collections.abc import Callable

try_lock: Callable[[bytes, bytes], int] = lib.nfk_lock_try
"""Opens a file, named by an environment variable or else by default, and takes flock(2) on it; negative: -errno."""

is_absent: Callable[[bytes, bytes], int] = lib.nfk_is_absent
"""Whether there is no such file."""
