"""Packets that bring a connection into a state, before the packet that a rule is to see in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.verify import wire
from nfkeep.model import Family

if TYPE_CHECKING:
    from nfkeep.migrate.verify.packet import Packet

STATES = {
    "new": {"NEW"},
    "established": {"ESTABLISHED"},
    "reply": {"ESTABLISHED"},
    "related": {"RELATED"},
    "invalid": {"INVALID"},
    "busy": {"ESTABLISHED"},
}
"""Names of sequences, and the states of --ctstate that their last packets are in."""


def sequence(packet: Packet, state: str) -> tuple[Packet, ...]:
    """What to send so that the last packet has the state; "new" is the packet alone."""
    tcp = packet.protocol == wire.TCP
    if state == "established":
        opening = attrs.evolve(packet, flags=wire.SYN) if tcp else packet
        going_on = attrs.evolve(packet, flags=wire.ACK, sequence=1001, acknowledged=2001) if tcp else packet
        return opening, opening.reply(), going_on
    if state == "reply":
        opening = _turned(packet)
        answer = attrs.evolve(packet, flags=wire.SYN | wire.ACK, sequence=2000, acknowledged=1001) if tcp else packet
        return opening, answer
    if state == "related":
        opening = _turned(packet)
        return opening, opening.error()
    if state == "invalid":
        if tcp:
            return (attrs.evolve(packet, flags=wire.SYN | wire.FIN),)
        if packet.protocol in (wire.ICMP, wire.ICMPV6):
            return (attrs.evolve(packet, icmp_type=0 if packet.protocol == wire.ICMP else 129),)
        if packet.protocol == wire.UDP and not packet.extensions and not packet.ip_options:  # a wrong checksum
            head = 20 if packet.family is Family.IPV4 else 40
            inner = packet.bytes[head:]
            return (attrs.evolve(packet, transport=inner[:6] + bytes([inner[6] ^ 1]) + inner[7:]),)
        return (packet,)
    if state == "busy":
        there = attrs.evolve(packet, flags=wire.ACK) if tcp else packet
        return (*sequence(packet, "established"), *((there.reply(), there) * 4))
    return (packet,)


def _turned(packet: Packet) -> Packet:
    """The packet that this one would answer."""
    back = packet.reply()
    if packet.protocol == wire.TCP:
        return attrs.evolve(back, flags=wire.SYN, sequence=1000, acknowledged=0)
    if packet.protocol in (wire.ICMP, wire.ICMPV6):
        return attrs.evolve(back, icmp_type=8 if packet.protocol == wire.ICMP else 128)
    return back
