"""An nftables table that lives no longer than the process: `flags owner` ties it to an open nfnetlink socket.

net/netfilter/nf_tables_api.c, nft_rcv_nl_event(): the kernel deletes the table when that socket closes, so that not
even SIGKILL leaves it behind. Kernels before 5.12 know no owners; there this raises UnsupportedError.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
import threading

from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.encode import delete_table, fill_set, flush_set, make_table, read_counter
from nfkeep.nft.messages import frame
from nfkeep.nft.ruleset import Ruleset, TimedSet
from nfkeep.nft.wire import attributes

_numbers = itertools.count()
_NFTA_OBJ_DATA, _NFTA_COUNTER_PACKETS = 4, 2


class OwnedTable:
    """One `table inet` of our own, with a name that nobody else uses. A context manager; for one thread at a time.

    Made in the network namespace that is current then, and stays there. Raises PermissionDeniedError, UnsupportedError
    with the missing feature, CommitError.
    """

    def __init__(self, ruleset: Ruleset) -> None:
        """Make the table with all of `ruleset` in it, in one transaction."""
        self._counters = ruleset.counters
        self._socket: BatchSocket | None = BatchSocket()
        try:
            self.name = _make(self._socket, ruleset)
        except BaseException:
            self._socket.close()
            raise

    def fill_set(self, timed_set: TimedSet) -> None:
        """Put its elements into a set of the table, in one transaction; their time begins now."""
        self._open().run([fill_set(self.name, timed_set)])

    def flush_set(self, set_name: str) -> None:
        """Take all elements out of a set, in one transaction."""
        self._open().run([flush_set(self.name, set_name)])

    def counters(self) -> dict[str, int]:
        """Packets that each of the table's named counters has seen; each is found by its name, nothing is listed."""
        answers = self._open().ask([read_counter(self.name, counter) for counter in self._counters])
        return {counter: _packets(answer) for counter, answer in zip(self._counters, answers, strict=True)}

    def question(self, counter: str) -> bytes:
        """The message that asks any nfnetlink socket of this network namespace for one of the counters."""
        return frame(read_counter(self.name, counter), 0)

    def dump(self, kind: int) -> list[tuple[int, bytes]]:
        """What the kernel lists for a request, as `BatchSocket.dump`, over the socket that is open anyhow."""
        return self._open().dump(kind)

    def close(self) -> None:
        """Delete the table. Idempotent."""
        opened, self._socket = self._socket, None
        if opened is None:
            return
        try:
            opened.run([delete_table(self.name)])
        finally:
            _close_later(opened)

    def _open(self) -> BatchSocket:
        assert self._socket is not None, "the table is closed"
        return self._socket

    def __enter__(self) -> OwnedTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _make(opened: BatchSocket, ruleset: Ruleset) -> str:
    """Make the table and return its name.

    Processes of several PID namespaces can share a network namespace, so that a name can be taken: the kernel then
    refuses the first message, with EPERM if the other table has an owner. Who lacks the right is refused the batch.
    """
    while True:
        name = f"nfkeep-{os.getpid()}-{next(_numbers)}"
        refusal = opened.send(make_table(name, ruleset))
        if refusal is None:
            return name
        if refusal.index != 1 or refusal.errno not in (errno.EEXIST, errno.EPERM):
            raise refusal.error()


def _packets(answer: bytes) -> int:
    counter = dict(attributes(dict(attributes(answer))[_NFTA_OBJ_DATA]))
    packets: int = struct.unpack("!Q", counter[_NFTA_COUNTER_PACKETS])[0]
    return packets


def _close_later(opened: BatchSocket) -> None:
    """Closing waits for an RCU grace period (8-20 ms); nobody has to stand and watch."""
    try:
        threading.Thread(target=opened.close, name="nfkeep-nft-close").start()
    except RuntimeError:  # no more threads, or the interpreter is about to end
        opened.close()
