"""The one door to libnftables, through pip-nftables; loaded on first use."""

from __future__ import annotations

import os
import threading
from typing import Any

from nfkeep.errors import PermissionDeniedError, UnsupportedError

# libnftables waits for answers with select(2), which aborts the process at a descriptor past FD_SETSIZE. A few low
# ones are set aside while there are some, for programs that open thousands of files before their first transaction.
_FD_SETSIZE = 1024
_reserve = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(4)]
_reserve_lock = threading.Lock()


class Context:
    """A libnftables context: one netlink socket in the network namespace that was current when it was made."""

    def __init__(self) -> None:
        try:
            import nftables
        except ImportError as error:  # pragma: no cover - a core dependency
            raise UnsupportedError(f"the nftables module is missing: {error}", feature="nftables") from error
        self._reserved = False
        with _reserve_lock:
            if _next_descriptor() >= _FD_SETSIZE and _reserve:
                os.close(_reserve.pop())
                self._reserved = True
            if _next_descriptor() >= _FD_SETSIZE:
                raise UnsupportedError(f"libnftables needs a file descriptor below {_FD_SETSIZE}, and none is free")
            try:
                self._nft: Any = nftables.Nftables()
            except OSError as error:
                raise UnsupportedError(f"libnftables cannot be loaded: {error}", feature="libnftables") from error

    def run(self, script: str) -> str:
        """Run a script as one transaction and return what it prints.

        Raises PermissionDeniedError, or UnsupportedError with nft's own words.
        """
        code, output, errors = self._nft.cmd(script)
        if code:
            said = str(errors).strip()
            if "Operation not permitted" in said:
                raise PermissionDeniedError("changing nftables")
            raise UnsupportedError(f"nft refused: {said.splitlines()[0] if said else 'no reason given'}", "nf_tables")
        return str(output)

    def close(self) -> None:
        """Free the context. After a deletion this waits for an RCU grace period, some milliseconds."""
        with _reserve_lock:
            self._nft = None
            if self._reserved:
                _reserve.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
                self._reserved = False


def _next_descriptor() -> int:
    fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)
    return fd
