"""An nftables table that lives no longer than the process: `flags owner` ties it to an open netlink socket.

net/netfilter/nf_tables_api.c, nft_rcv_nl_event(): the kernel deletes the table when that socket closes, so that not
even SIGKILL leaves it behind.
"""

from __future__ import annotations

import itertools
import os
import threading

from nfkeep.nft._ffi import Context
from nfkeep.nft.netlink import INET, Reader

_numbers = itertools.count()


class OwnedTable:
    """One `table inet` of our own, with a name that no other process or thread uses. A context manager."""

    def __init__(self, body: str) -> None:
        """Make the table with `body` inside its braces, in one transaction."""
        self.name = f"nfkeep-{os.getpid()}-{next(_numbers)}"
        self._context: Context | None = Context()
        self._reader = Reader()
        try:
            self._context.run(f"table inet {self.name} {{\nflags owner\n{body}}}\n")
        except BaseException:
            self._reader.close()
            raise

    def run(self, script: str) -> str:
        """Run a script over the table's own socket; nobody else may change an owned table."""
        assert self._context is not None, "the table is closed"
        return self._context.run(script)

    def counters(self) -> dict[str, int]:
        """Packets that each of the table's named counters has seen; some 20 µs."""
        assert self._context is not None, "the table is closed"
        return self._reader.counters(INET, self.name)

    def close(self) -> None:
        """Delete the table. Idempotent."""
        context, self._context = self._context, None
        if context is None:
            return
        context.run(f"delete table inet {self.name}\n")
        # Freeing waits for an RCU grace period (8-20 ms); nobody has to stand and watch.
        threading.Thread(target=_free, args=(context, self._reader), name="nfkeep-nft-close").start()

    def __enter__(self) -> OwnedTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _free(context: Context, reader: Reader) -> None:
    context.close()
    reader.close()
