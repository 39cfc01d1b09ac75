"""What a limiting rule asks of a packet, as far as a conntrack entry can answer: pure values, no I/O.

A condition that is not expressed here is left out by whoever builds these, so that a selector matches too many flows
rather than too few: a packet of a flow too many passes the rule and simply does not match it.
"""

from __future__ import annotations

import attrs

from nfkeep.model import Hook

PortRanges = tuple[tuple[int, int], ...]
"""Inclusive ranges of ports in host order; the empty tuple means any port."""


def _address(instance: object, attribute: attrs.Attribute[bytes], value: bytes) -> None:
    if len(value) not in (0, 4, 16):
        raise ValueError(f"{attribute.name}: {len(value)} bytes, not 0, 4 or 16")


def _interface(instance: object, attribute: attrs.Attribute[bytes], value: bytes) -> None:
    if len(value) > 16:
        raise ValueError(f"{attribute.name}: {len(value)} bytes, more than IFNAMSIZ")


def _ports(instance: object, attribute: attrs.Attribute[PortRanges], value: PortRanges) -> None:
    if any(not 0 <= low <= high <= 0xFFFF for low, high in value):
        raise ValueError(f"{attribute.name}: {value} holds something that is no range of ports")


@attrs.frozen(slots=True)
class Condition:
    """One rule's simple conditions; all must hold, and the defaults mean "anything".

    Addresses and their masks are 4 or 16 bytes as in the packet, any mask, also one with holes; a wanted bit outside
    the mask never matches (ip_packet_match() in net/ipv4/netfilter/ip_tables.c); an address with an empty mask stands
    for itself alone. Interface names and masks are compared byte-wise over 16 bytes, missing bytes being zero, as
    ifname_compare() does with struct ipt_ip. `either_ports` is `multiport --ports`: the source or the destination port
    is in. A port condition, inverted or not, never holds for a flow without ports (neither TCP nor UDP). An unknown
    interface satisfies every interface condition.
    """

    protocol: int = 0
    protocol_inverted: bool = False
    source: bytes = attrs.field(default=b"", validator=_address)
    source_mask: bytes = attrs.field(default=b"", validator=_address)
    source_inverted: bool = False
    destination: bytes = attrs.field(default=b"", validator=_address)
    destination_mask: bytes = attrs.field(default=b"", validator=_address)
    destination_inverted: bool = False
    source_ports: PortRanges = attrs.field(default=(), validator=_ports)
    source_ports_inverted: bool = False
    destination_ports: PortRanges = attrs.field(default=(), validator=_ports)
    destination_ports_inverted: bool = False
    either_ports: PortRanges = attrs.field(default=(), validator=_ports)
    either_ports_inverted: bool = False
    in_interface: bytes = attrs.field(default=b"", validator=_interface)
    in_interface_mask: bytes = attrs.field(default=b"", validator=_interface)
    in_interface_inverted: bool = False
    out_interface: bytes = attrs.field(default=b"", validator=_interface)
    out_interface_mask: bytes = attrs.field(default=b"", validator=_interface)
    out_interface_inverted: bool = False


@attrs.frozen(slots=True)
class Selector:
    """The flows that one limiting rule can count.

    `conditions` are those of the rule and of every jump that leads to it; all must hold. `destination_translated`: at
    this hook and priority the destination is the one after DNAT. `replies`: packets of the reply direction can be
    counted too, that is, the rule asks neither for a SYN nor for `ctstate NEW`.
    """

    hook: Hook
    conditions: tuple[Condition, ...] = ()
    destination_translated: bool = False
    replies: bool = False
