"""One packet to try on both hosts: where it comes from, where it is bound for, and what is in its headers."""

from __future__ import annotations

import attrs

from nfkeep.migrate.verify import wire
from nfkeep.migrate.verify.readable import describe
from nfkeep.model import Family


@attrs.frozen(slots=True)
class Packet:
    """A packet by its fields; `wire.build` makes bytes of it.

    `enters`: the interface that it is received on; None for one that the host sends itself, from a raw socket.
    `leaves`: the interface that its destination is routed to; None where the destination is the host itself.
    `back`: the interface that its source is routed to, if not the one that it is received on.
    `tag`: the control information of an 802.1Q tag on its frame, priority and VLAN; None without one.
    """

    family: Family
    enters: str | None
    leaves: str | None
    source: str
    destination: str
    protocol: int = wire.TCP
    sport: int | None = None
    dport: int | None = None
    flags: int = wire.SYN
    tcp_options: bytes = b""
    tcp_reserved: int = 0
    sequence: int = 1000
    acknowledged: int = 0
    icmp_type: int = 8
    icmp_code: int = 0
    identifier: int | None = None
    spi: int = 0x100
    chunks: bytes | None = None
    dccp_type: int = 0
    dccp_options: bytes = b""
    payload: bytes = b"nfkeep verify 24 bytes.."
    transport: bytes | None = None
    cut: int | None = None
    ttl: int = 64
    tos: int = 0
    number: int = 0x4E46
    fragment: int = 0
    more: bool = False
    atomic: bool = False
    dont_fragment: bool = False
    reserved: int = 0
    ip_options: bytes = b""
    extensions: tuple[tuple[int, bytes], ...] = ()
    flow_label: int = 0
    source_mac: bytes = bytes.fromhex("020000aa0001")
    destination_mac: bytes | None = None
    tag: int | None = None
    mark: int = 0
    uid: int = 0
    gid: int = 0
    back: str | None = None
    bytes: bytes = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "bytes", wire.build(self))

    def __str__(self) -> str:
        where = f"received on {self.enters}" if self.enters else "sent by the host itself"
        if self.enters is None and (self.uid or self.gid):
            where += f" (uid {self.uid}, gid {self.gid})"
        if self.tag is not None:
            where += f" (priority {self.tag >> 13}, VLAN {self.tag & 0xFFF})"
        if self.mark:
            where += f" (mark {self.mark:#x})"
        towards = f", routed to {self.leaves}" if self.leaves else ", to the host itself"
        return f"{describe(self.bytes)} {where}{towards}"

    @property
    def is_multicast(self) -> bool:
        """Whether it is for a group."""
        return self.bytes[16] >> 4 == 14 if self.family is Family.IPV4 else self.bytes[24] == 255

    def reply(self) -> Packet:
        """The answer of the other end, on the way back."""
        from_here = self.enters is None
        back = attrs.evolve(
            self,
            back=None,
            enters=(self.leaves or "lo") if from_here else self.leaves,
            leaves=None if from_here else self.enters,
            source=self.destination,
            destination=self.source,
            sport=self.dport,
            dport=self.sport,
            sequence=2000,
            acknowledged=self.sequence + 1,
        )
        if self.protocol == wire.TCP:
            return attrs.evolve(back, flags=wire.SYN | wire.ACK)
        if self.protocol in (wire.ICMP, wire.ICMPV6):
            return attrs.evolve(back, icmp_type=_REPLIES.get((self.protocol, self.icmp_type), self.icmp_type))
        return back

    def error(self) -> Packet:
        """An ICMP error about this packet, from its destination: "port unreachable"."""
        back = self.reply()
        six = self.family is Family.IPV6
        return attrs.evolve(
            back,
            protocol=wire.ICMPV6 if six else wire.ICMP,
            icmp_type=1 if six else 3,
            icmp_code=4 if six else 3,
            identifier=0,
            payload=self.bytes[:128],
            extensions=(),
            ip_options=b"",
            fragment=0,
            more=False,
            transport=None,
            cut=None,
        )


_REPLIES = {(wire.ICMP, 8): 0, (wire.ICMP, 13): 14, (wire.ICMP, 17): 18, (wire.ICMPV6, 128): 129}
