"""The live flows that limiting rules can count, and those that a ban is to end: dumps of the kernel's table, filtered.

Kernel: net/netfilter/nf_conntrack_netlink.c (the dump), nf_conncount.c (what counts), RTM_GETROUTE (where senders are).
"""

from __future__ import annotations

import os
import socket
from types import MappingProxyType
from typing import TYPE_CHECKING

from nfkeep.conntrack import _ffi

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from nfkeep.conntrack.select import Selector
    from nfkeep.model import Family, Hook

_NETLINK_NETFILTER = 12  # linux/netlink.h


class Conntrack:
    """The connection tracking table of the calling thread's network namespace, for as long as this is open.

    Owns a ctnetlink and an rtnetlink socket; `Flows` that it made must not be primed after `close()`. Not to be used
    by two threads at once. Raises PermissionDeniedError, UnsupportedError (no ctnetlink in this kernel).
    """

    __slots__ = ("_ctnetlink", "_rtnetlink")

    def __init__(self) -> None:
        self._ctnetlink = self._rtnetlink = -1
        try:
            self._ctnetlink = _ffi.open_netlink(_NETLINK_NETFILTER)
            self._rtnetlink = _ffi.open_netlink(socket.NETLINK_ROUTE)
        except BaseException:
            self.close()
            raise

    def select(self, family: Family, selectors: Sequence[Selector]) -> Flows:
        """The flows of one family that at least one selector matches, as they are now.

        Left out without a word, since the kernel does not count them either: TCP flows in TIME_WAIT or CLOSE
        (nf_conncount.c already_closed()). Raises PermissionDeniedError, NfkeepError.
        """
        handle, counts, skipped = _ffi.select(self._ctnetlink, self._rtnetlink, family, selectors)
        return Flows(self, family, handle, counts, skipped)

    def count(self, family: Family, selectors: Sequence[Selector]) -> int:
        """How many flows `select` would find."""
        with self.select(family, selectors) as flows:
            return len(flows)

    def delete_from(
        self, family: Family, sources: Sequence[tuple[bytes, int]], services: Sequence[tuple[int, int, int]] = ()
    ) -> int:
        """Delete the entries that these sources have opened to these services; returns how many.

        `sources`: hosts and networks, each the address (4 or 16 bytes) and the length of its prefix; bits behind that
        do not matter. `services`: protocol number, lowest and highest port (65535 at most); none means everything. Both
        are compared with the original tuple, as it was before any NAT. A range of ports is for protocols that have
        some, but 0 to 65535 holds for the others, too (ICMP, GRE).

        Entries of every zone and state go, those in a flowtable as well, whose packets then meet the rules again
        (flow_offload_lookup() in net/netfilter/nf_flow_table_core.c). One who bans first and calls this then may find
        that a packet that was already past the ban has made an entry after all. Many sources in one call cost one dump
        of the table, a call for each a dump for each.

        Raises ValueError, PermissionDeniedError, NfkeepError; UnsupportedError, when the others are deleted, if some
        are in a flowtable and this kernel deletes none of these (before 6.4, 6.1.32 and 5.15.115).
        """
        return _ffi.delete_from(self._ctnetlink, family, sources, services)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._ctnetlink < 0

    def close(self) -> None:
        """Close both sockets; calling it again does nothing."""
        for fd in (self._ctnetlink, self._rtnetlink):
            if fd >= 0:
                os.close(fd)
        self._ctnetlink = self._rtnetlink = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Flows:
    """Selected flows, each with what is needed to build it again. Owns C memory until `close()`.

    `len()`: flows that can be primed. `counts`: per selector, the flows that it matches, those skipped included.
    `skipped`: flows that match but cannot be primed, by reason: "offloaded" (a flowtable forwards them), "protocol"
    (neither TCP nor UDP), "expectations" (a helper expects further connections of it), "interface unknown" (no route
    back to the sender). Only reasons that occur are keys. `interfaces`: the interfaces that packets have to enter on.
    """

    __slots__ = ("_interfaces", "conntrack", "counts", "family", "handle", "skipped")

    def __init__(
        self,
        conntrack: Conntrack,
        family: Family,
        handle: _ffi.FlowsHandle,
        counts: tuple[int, ...],
        skipped: _ffi.Skipped,
    ) -> None:
        self.conntrack = conntrack
        self.family = family
        self.handle = handle
        self.counts: tuple[int, ...] = counts
        reasons = {
            "offloaded": skipped.offloaded,
            "protocol": skipped.protocol,
            "expectations": skipped.expectations,
            "interface unknown": skipped.no_interface,
        }
        self.skipped: Mapping[str, int] = MappingProxyType({name: count for name, count in reasons.items() if count})
        self._interfaces = handle.interfaces()

    def __len__(self) -> int:
        return len(self.handle)

    @property
    def interfaces(self) -> frozenset[int]:
        """The ifindexes on which opening packets of remote senders have to enter."""
        return self._interfaces

    @property
    def hooks(self) -> frozenset[Hook]:
        """The hooks whose nonces opening packets will carry, where the caller has to drop them: the farthest ones."""
        return self.handle.hooks()

    @property
    def has_local_senders(self) -> bool:
        """Whether some opening packets start on this host itself."""
        return self.handle.has_local_senders()

    def leave_out(self, indexes: Sequence[int]) -> None:
        """Have `prime` pass over these flows, as if they had not been selected; `len()` and `counts` stay.

        Raises IndexError, with nothing done, if there is no such flow; ValueError when closed.
        """
        self._handle.leave_out(indexes)

    def sent(self) -> memoryview:
        """The opening packets that `prime` has sent until now, second turns included; ValueError when closed.

        Unsigned 32-bit numbers, two for each flow: in its original direction, and in that of replies.
        """
        return self._handle.sent()

    @property
    def _handle(self) -> _ffi.FlowsHandle:
        if self.handle.closed:
            raise ValueError("the flows are closed")
        return self.handle

    def probes(self, *, is_new: bool) -> bytes:
        """The opening packets as rules see them, two for each flow, packed as struct nfk_probe (csrc/probe.h).

        `is_new`: the flows are created again before, so that these are new to conntrack, as `prime` has it with
        `recreate`. Real packets that come in between are not thought of. Ask in the flows' network namespace, as
        interfaces are named here.
        """
        return self._handle.probes(is_new)

    def close(self) -> None:
        """Free the flows; calling it again does nothing."""
        self.handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
