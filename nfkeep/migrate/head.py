"""The conditions in a rule's head: addresses, interfaces, protocol, fragments (ip_packet_match() in ip_tables.c)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from nfkeep.migrate.fragments import admit
from nfkeep.migrate.names import interface
from nfkeep.migrate.parts import NEVER, Test
from nfkeep.migrate.values import address_test
from nfkeep.model import Family

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Option

_ANY_PROTOCOL = frozenset({"all", "0"})
_ADDRESSES = {
    "-s": {Family.IPV4: "ip saddr", Family.IPV6: "ip6 saddr"},
    "-d": {Family.IPV4: "ip daddr", Family.IPV6: "ip6 daddr"},
}
_INTERFACES = {"-i": "iifname", "-o": "oifname"}

# Where iptables' name of a protocol (xtables_chain_protos in libxtables, /etc/protocols) is not nft's.
_PROTOCOLS = {
    "icmp6": "icmpv6", "ipv6-icmp": "icmpv6", "ipcomp": "comp", "mobility-header": "135", "ipv6-mh": "135", "mh": "135",
    "1": "icmp", "6": "tcp", "17": "udp", "33": "dccp", "50": "esp", "51": "ah", "58": "icmpv6", "108": "comp",
    "132": "sctp", "136": "udplite",
}  # fmt: skip
_KNOWN_TO_NFT = frozenset({"tcp", "udp", "udplite", "icmp", "icmpv6", "esp", "ah", "sctp", "dccp", "comp"})


def head_parts(context: Context) -> list[Part]:
    """The parts for the head of the context's rule."""
    parts: list[Part] = []
    for option in context.rule.head:
        name = option.name
        if name in _ADDRESSES:
            left = _ADDRESSES[name][context.family]
            parts += address_test(left, option.value, v6=context.v6, negated=option.negated)
        elif name in _INTERFACES:
            parts += _interface_test(name, option.value, negated=option.negated)
        elif name == "-p":
            parts += _protocol(option, context)
        else:  # -f: what is not the first fragment
            parts.append(Test("ip frag-off & 0x1fff", ("0",), negated=not option.negated))
    return parts


@functools.lru_cache(maxsize=256)
def protocol_test(name: str, *, v6: bool, negated: bool = False) -> Test:
    """Whether a packet is of a protocol, by iptables' name or number."""
    return Test("meta l4proto" if v6 else "ip protocol", (protocol_name(name),), negated)


def protocol_name(name: str) -> str:
    """A protocol as nft writes it: one of its own names, or the number."""
    name = _PROTOCOLS.get(name.lower(), name.lower())
    if name in _KNOWN_TO_NFT or name.isdecimal():
        return name
    return str(_number(name))


@functools.lru_cache(maxsize=1024)
def _interface_test(name: str, value: str, *, negated: bool) -> tuple[Part, ...]:
    if value == "+":
        return (NEVER,) if negated else ()
    return (Test(_INTERFACES[name], (interface(value),), negated),)


def _protocol(option: Option, context: Context) -> tuple[Part, ...]:
    value, negated = option.value, option.negated
    if value in _ANY_PROTOCOL:
        return (NEVER,) if negated else ()
    if context.v6 and (found := _only_with_ipv6(option, context)) is not None:
        return found
    return (protocol_test(value, v6=context.v6, negated=negated),)


def _only_with_ipv6(option: Option, context: Context) -> tuple[Part, ...] | None:
    """Where the protocols of ip6_packet_match() and of nft_set_pktinfo_ipv6() differ; the parts, if that settles it.

    iptables goes on behind an authentication header, and so sees none; nft (IP6_FH_F_AUTH) stops at it.
    """
    if not context.defragmented:
        admit(context)
    if protocol_name(option.value) == "ah":
        return () if option.negated else (NEVER,)
    context.approximate_in_general(
        "-p",
        "of packets with an authentication header iptables sees the protocol behind it, nft that header only",
        "decide on such packets first, with -m ah",
    )
    return None


def _number(name: str) -> int:
    import socket

    from nfkeep.migrate.loss import Lost

    try:
        return socket.getprotobyname(name)
    except OSError:
        raise Lost(f"the protocol {name!r} is not known here", "write its number") from None
