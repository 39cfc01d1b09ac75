"""What a host did with a packet, read from packet logs: an nft table beside the rules logs all at the end of each hook.

The kernel sends each log entry at once (threshold 1) while the packet is on its way, and a packet that is written to a
TAP is on its way within write(2): when that returns, all that became of the packet is waiting on the socket. What
passes through `lo` goes by the CPU's backlog queue; `Log.settle` sends a mark after it there and waits for that.
"""

from __future__ import annotations

import select
import socket
import struct
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import NfkeepError
from nfkeep.migrate.verify.netlink import Netfilter, attribute, attributes, messages
from nfkeep.migrate.verify.readable import describe
from nfkeep.model import Family, Hook

if TYPE_CHECKING:
    from collections.abc import Iterable

TABLE = "nfkeep_verify"
GROUP, CONNMARK_GROUP, CONDITION_GROUP, SETTLE_GROUP = 40001, 40002, 40003, 40004
_EARLIEST, _LAST = -(2**31), 2**31 - 2  # before everything; before conntrack confirms, at INT_MAX
SETTLE_TYPE = 0x88B5  # IEEE's Ethernet type for experiments: never used with IP, see `settle_frame`
_PACKET_MESSAGE = 4 << 8  # NFNL_SUBSYS_ULOG, NFULNL_MSG_PACKET
_ENOUGH = 8 << 20


def table(family: Family, *, connmark: bool, conditions: Iterable[str] = ()) -> str:
    """The observing table as nft text. `conditions` are nft expressions to tell of each packet.

    Reading the connection's mark makes the kernel track connections.
    """
    name = "ip" if family is Family.IPV4 else "ip6"
    final = [f"log group {GROUP}"]
    final += [f'{each} log prefix "{each.replace(chr(34), "")}" group {CONDITION_GROUP}' for each in conditions]
    if connmark:
        # The packet's mark has done its work at the end of these hooks: it is free to carry the other one.
        final.append(f"ct mark != 0 meta mark set ct mark log group {CONNMARK_GROUP}")
    settle = f"meta mark {SETTLE_MARK:#x} meta l4proto {SETTLE_PROTOCOL} log group {SETTLE_GROUP} drop"
    # What the kernel sends when it likes has no socket of anybody's: reports of group membership, and that the other
    # fragments of a packet, perhaps one of an earlier sequence, have not come in time.
    own = ["ip protocol igmp", "icmp type time-exceeded icmp code 1"]
    if family is Family.IPV6:
        own = ["icmpv6 type { 130, 131, 132, 143 }", "icmpv6 type time-exceeded icmpv6 code 1"]
    marked = f"meta iiftype ether @ll,48,16 {int.from_bytes(MARKS_IN, 'big'):#x} meta mark set @ll,64,32"
    early = {
        "prerouting": [settle, marked],
        "output": ["meta skuid 0-4294967295 accept", *(f"{each} drop" for each in own)],
    }
    text = [f"table {name} {TABLE} {{"]
    for hook, rules in early.items():
        text += [f"chain early_{hook} {{ type filter hook {hook} priority {_EARLIEST}", *rules, "}"]
    chains = {"prerouting": [f"log group {GROUP}"], "input": final, "postrouting": final}
    for hook, rules in chains.items():
        text += [f"chain {hook} {{ type filter hook {hook} priority {_LAST}", *rules, "}"]
    return "\n".join([*text, "}", ""])


MARKS_IN = bytes.fromhex("024d")
"""How a source MAC begins whose other four bytes are the mark, as the host stores it, that the packet begins with."""
SETTLE_MARK, SETTLE_PROTOCOL = 0x4E466B70, 253  # RFC 3692: a protocol for experiments


def settle_packet(family: Family) -> bytes:
    """What `settle` sends on `lo`."""
    from nfkeep.migrate.verify import wire
    from nfkeep.migrate.verify.packet import Packet

    ends = ("127.0.0.1", "127.0.0.1") if family is Family.IPV4 else ("::1", "::1")
    return wire.build(Packet(family, "lo", None, *ends, protocol=SETTLE_PROTOCOL))


@attrs.frozen(slots=True)
class Seen:
    """A packet at the end of a hook, and what it carries beside its bytes."""

    hook: Hook
    enters: int
    leaves: int
    data: bytes
    mark: int
    prefix: str = ""
    group: int = GROUP
    connmark: int = 0
    conditions: tuple[str, ...] = ()


class Log:
    """The packet log of one namespace; made by a thread that is in it."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._netfilter = Netfilter()
        self._netfilter.socket.setsockopt(socket.SOL_SOCKET, 33, _ENOUGH)  # SO_RCVBUFFORCE
        self._groups: set[int] = set()
        self._mark = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._mark.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, SETTLE_MARK)
        self._mark.bind(("lo", 0))
        kind = 0x0800 if family is Family.IPV4 else 0x86DD
        self._settle = bytes(12) + struct.pack("!H", kind) + settle_packet(family)
        self._early: list[bytes] = []
        self.listen([GROUP, CONNMARK_GROUP, CONDITION_GROUP, SETTLE_GROUP])

    def close(self) -> None:
        """Close the sockets."""
        self._netfilter.close()
        self._mark.close()

    def listen(self, groups: Iterable[int]) -> None:
        """Also hear what is logged to these groups. One that somebody else listens to is passed over."""
        for group in sorted(set(groups) - self._groups):
            for what, payload in ((1, b"\1"), (2, struct.pack("!IBB", 0xFFFF, 2, 0)), (5, struct.pack("!I", 1))):
                self._netfilter.ask(4 << 8 | 1, 0, group, attribute(what, payload), f"listening to packet log {group}")
            self._groups.add(group)
        self._netfilter.socket.setblocking(False)

    def read(self) -> list[bytes]:
        """All that was logged since the last call: the bodies of the messages, without the time of day in them."""
        found, self._early = self._early, []
        receive = self._netfilter.socket.recv
        while True:
            try:
                data = receive(_MESSAGE)
            except BlockingIOError:
                return found
            for kind, body in messages(data):
                if kind == _PACKET_MESSAGE:
                    before, stamped, behind = body.partition(_STAMP)
                    found.append(before + behind[_STAMP_BYTES:] if stamped else body)

    def settle(self) -> None:
        """Wait until what is on its way through `lo` has arrived, and the answers to it."""
        for _ in range(2):
            self._mark.send(self._settle)
            self._await_mark()

    def _await_mark(self) -> None:
        while True:
            bodies = self.read()
            self._early = [body for body in bodies if body[2:4] != _SETTLE_BYTES]
            if len(self._early) < len(bodies):
                return
            if not select.select([self._netfilter.socket], [], [], 5.0)[0]:
                raise NfkeepError("the packet log of the test namespace has gone silent")


_STAMP, _STAMP_BYTES = struct.pack("=HH", 20, 3), 16  # NFULA_TIMESTAMP
TO_LOOPBACK = struct.pack("=HH", 8, 5) + struct.pack("!I", 1)
"""In the body of every message about a packet that leaves on `lo`: NFULA_IFINDEX_OUTDEV. (`lo` is number 1.)"""
_SETTLE_BYTES = struct.pack("!H", SETTLE_GROUP)
_MESSAGE = 1 << 15  # more than a packet here has, and less than what malloc() maps anew each time


def parse(bodies: Iterable[bytes]) -> list[Seen]:
    """What the bodies of log messages say, what belongs to one packet put together."""
    found: list[Seen] = []
    for body in bodies:
        group = struct.unpack_from("!H", body, 2)[0]
        given = attributes(body[4:])
        _, hook = struct.unpack_from("!HB", given[1])
        mark, enters, leaves = (struct.unpack("!I", given[key])[0] if key in given else 0 for key in (2, 4, 5))
        prefix = given.get(10, b"").rstrip(b"\0").decode(errors="replace")
        if group == CONNMARK_GROUP and found:
            found[-1] = attrs.evolve(found[-1], connmark=mark)
        elif group == CONDITION_GROUP and found:
            found[-1] = attrs.evolve(found[-1], conditions=(*found[-1].conditions, prefix))
        else:
            found.append(Seen(Hook(hook), enters, leaves, given.get(9, b""), mark, prefix, group))
    return found


def tell(seen: Seen, names: dict[int, str]) -> str:
    """One line about it."""
    enters, leaves = names.get(seen.enters, ""), names.get(seen.leaves, "")
    if seen.group != GROUP:
        what = f"logged to group {seen.group} with {seen.prefix!r}"
    elif seen.hook is Hook.PREROUTING:
        what = f"passed PREROUTING from {enters}"
    elif seen.hook is Hook.INPUT:
        what = f"delivered locally from {enters}"
    elif enters:
        what = f"forwarded from {enters} to {leaves}"
    else:
        what = f"sent on {leaves}"
    notes = [f"{name} {value:#x}" for name, value in (("mark", seen.mark), ("connection mark", seen.connmark)) if value]
    notes += seen.conditions
    return f"{what}: {describe(seen.data)}" + (f" [{', '.join(notes)}]" if notes else "")
