"""The nft table that stands guard during a change, as a value: what it holds off, and what of ours it takes away.

Three jobs, for some milliseconds. The gate drops packets that would open a limited connection (clients send them
again). The sink drops the opening packets that nfkeep sends itself, right behind the rules that shall count them. The
hush drops what a REJECT would answer to those.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterator, Mapping

from nfkeep.conntrack import identity
from nfkeep.conntrack.select import Condition, PortRanges, Selector
from nfkeep.model import Family, Hook
from nfkeep.nft.ruleset import (
    BaseChain,
    Bitwise,
    Compare,
    Counter,
    CountIn,
    Ct,
    CtKey,
    Element,
    Expression,
    Header,
    Lookup,
    Meta,
    MetaKey,
    Payload,
    Range,
    Relation,
    Rule,
    Ruleset,
    TimedSet,
    Verdict,
)

SHUT = "shut"
"""The set of the protocols that are held off. Flushed, the gate is open, while sink and hush stay."""

RESETS = "resets"
"""The table's counter of resets by which rules have answered our packets."""

_TCP, _UDP = 6, 17
_CONNTRACK_DONE = -199  # one behind NF_IP_PRI_CONNTRACK
_LAST = 2147483646
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_IFNAMSIZ = 16
_STATE_NEW = struct.pack("=I", 8)  # NF_CT_STATE_BIT(IP_CT_NEW)

# A rule is at most 4095 bytes of expressions (nf_tables_newrule()), of which the largest take about 64.
_MOST_EXPRESSIONS = 60
_ENDING = 12  # those that come before and behind the told conditions of a gate rule


def guard_ruleset(
    family: Family, selectors: tuple[Selector, ...], hooks: Mapping[Hook, int], nonces: Mapping[Hook, int], *,
    open_again_seconds: float, passing: Collection[int] = (),
) -> Ruleset:  # fmt: skip
    """All that is in the table. `hooks`: those of the watched table, with its priority there. `passing`: nonces that
    other guards look for, whose packets this one is to let through.

    What of a selector cannot be said is left out, so that more is held off rather than less. However long the holder
    lives, the gate opens by itself after `open_again_seconds`.
    """
    elements = tuple(Element(bytes([protocol]), open_again_seconds) for protocol in (_TCP, _UDP))
    accepted = [rule for nonce in (*nonces.values(), *passing) for rule in _own(nonce, Verdict.ACCEPT)]
    dropped = [rule for nonce in nonces.values() for rule in _own(nonce, Verdict.DROP)]
    midstream = [*accepted, *_midstream(selectors)]
    chains = [
        _chain("midstream", hook, _CONNTRACK_DONE, midstream) for hook in (Hook.PREROUTING, Hook.OUTPUT)
    ]  # fmt: skip
    for hook, priority in hooks.items():
        shut = [rule for selector in selectors if selector.hook is hook for rule in _opening(family, selector)]
        if shut:
            chains.append(_chain("gate", hook, max(priority - 1, _CONNTRACK_DONE), [*accepted, *shut]))
        sunk = _own(nonces[hook], CountIn(arrived(hook)), Verdict.DROP)
        chains.append(_chain("sink", hook, priority + 1, sunk))
    chains.append(_chain("last", Hook.INPUT, _LAST, dropped))
    chains.append(_chain("last", Hook.POSTROUTING, _LAST, [(*_LOOPBACK_OUT, Verdict.ACCEPT), *dropped]))
    hush = [rule for nonce in nonces.values() for rule in _answers(nonce)]
    chains.append(_chain("hush", Hook.OUTPUT, -401, hush))
    counters = (*(arrived(hook) for hook in hooks), RESETS)
    return Ruleset((TimedSet(SHUT, elements),), counters, tuple(chains))


def arrived(hook: Hook) -> str:
    """The table's counter of our packets that have passed the watched table at a hook."""
    return f"arrived_{hook.name.lower()}"


def _chain(job: str, hook: Hook, priority: int, rules: list[Rule]) -> BaseChain:
    return BaseChain(f"{job}_{hook.name.lower()}", hook, priority, tuple(rules))


def _is(value: bytes) -> Compare:
    return Compare(Relation.EQ, value)


def _flags(mask: int, wanted: int) -> Rule:
    return _TCP_FLAGS, Bitwise(bytes([mask]), b"\0"), _is(bytes([wanted]))


_L4PROTO, _NFPROTO = Meta(MetaKey.L4PROTO), Meta(MetaKey.NFPROTO)
_IS_SHUT: Rule = (_L4PROTO, Lookup(SHUT))
_IS_PROTOCOL: dict[int, Rule] = {protocol: (_L4PROTO, _is(bytes([protocol]))) for protocol in (_TCP, _UDP)}
_IS_FAMILY: dict[Family, Rule] = {
    Family.IPV4: (_NFPROTO, _is(bytes([socket.AF_INET]))),
    Family.IPV6: (_NFPROTO, _is(bytes([socket.AF_INET6]))),
}
_IS_NEW: Rule = (Ct(CtKey.STATE), Bitwise(_STATE_NEW, bytes(4)), Compare(Relation.NEQ, bytes(4)))
_LOOPBACK_OUT: Rule = (Meta(MetaKey.OIFNAME), _is(b"lo".ljust(_IFNAMSIZ, b"\0")))

_TCP_SEQUENCE = Payload(Header.TRANSPORT, 4, 4)
_TCP_ACKNOWLEDGED = Payload(Header.TRANSPORT, 8, 4)
_TCP_FLAGS = Payload(Header.TRANSPORT, 13, 1)
_UDP_LENGTH = Payload(Header.TRANSPORT, 4, 2)
_UDP_PAYLOAD = Payload(Header.TRANSPORT, 8, 8)
_SOURCE_PORT = Payload(Header.TRANSPORT, 0, 2)
_DESTINATION_PORT = Payload(Header.TRANSPORT, 2, 2)
_SYN_ONLY = _flags(_FIN | _SYN | _RST | _ACK, _SYN)
_SYN_OR_SYNACK = _flags(_FIN | _SYN | _RST, _SYN)
_RESET = _flags(_RST, _RST)
_NO_SYN = _flags(_SYN, 0)
_ADDRESSES = {  # where source and destination are: struct iphdr, struct ipv6hdr
    Family.IPV4: (Payload(Header.NETWORK, 12, 4), Payload(Header.NETWORK, 16, 4)),
    Family.IPV6: (Payload(Header.NETWORK, 8, 16), Payload(Header.NETWORK, 24, 16)),
}
_UNREACHABLE: dict[Family, Rule] = {
    Family.IPV4: (*_IS_FAMILY[Family.IPV4], _L4PROTO, _is(b"\1"), Payload(Header.TRANSPORT, 0, 1), _is(b"\3")),
    Family.IPV6: (*_IS_FAMILY[Family.IPV6], _L4PROTO, _is(b"\x3a"), Payload(Header.TRANSPORT, 0, 1), _is(b"\1")),
}
_QUOTED = {Family.IPV4: 8 + 20, Family.IPV6: 8 + 40}  # where an ICMP error has the transport header of its cause


def _own(nonce: int, *ending: Expression) -> list[Rule]:
    """What carries the nonce, as `nfkeep.conntrack.identity` describes it."""
    sequence = _is(struct.pack("!I", nonce))
    length, payload = _is(struct.pack("!H", 16)), _is(identity.payload(nonce))
    return [
        (*_IS_PROTOCOL[_TCP], *_SYN_OR_SYNACK, _TCP_SEQUENCE, sequence, *ending),
        (*_IS_PROTOCOL[_UDP], _UDP_LENGTH, length, _UDP_PAYLOAD, payload, *ending),
    ]


def _midstream(selectors: tuple[Selector, ...]) -> Iterator[Rule]:
    """For the microseconds in which a flow's entry is away: its packets must not start a new one, or be refused.

    TCP sends them again. Whether an unknown UDP packet is in midstream nobody can tell, so there the ports decide.
    """
    yield (*_IS_SHUT, *_IS_PROTOCOL[_TCP], *_IS_NEW, *_NO_SYN, Verdict.DROP)
    new_udp = (*_IS_SHUT, *_IS_PROTOCOL[_UDP], *_IS_NEW)
    udp = [selector for selector in selectors if _UDP in _protocols(selector)]
    ranges = [_common_ports(selector) for selector in udp]
    if any(not each for each in ranges):
        yield (*new_udp, Verdict.DROP)
    else:
        for each in ranges:
            yield (*new_udp, *_ports(_DESTINATION_PORT, each, inverted=False), Verdict.DROP)
            yield (*new_udp, *_ports(_SOURCE_PORT, each, inverted=False), Verdict.DROP)


def _opening(family: Family, selector: Selector) -> Iterator[Rule]:
    for protocol in _protocols(selector):
        told: list[Expression] = []
        for condition in selector.conditions:
            _tell(told, _condition(family, selector.hook, condition))
        for condition in selector.conditions:
            _tell(told, _port_conditions(condition))
        first = _SYN_ONLY if protocol == _TCP else _IS_NEW
        where = (*_IS_SHUT, *_IS_FAMILY[family], *_IS_PROTOCOL[protocol])
        yield (*where, *told, *first, Counter(), Verdict.DROP)


def _tell(told: list[Expression], more: Iterator[Rule]) -> None:
    """Add tests as long as the rule has room for them."""
    for test in more:
        if len(told) + len(test) + _ENDING <= _MOST_EXPRESSIONS:
            told.extend(test)


def _protocols(selector: Selector) -> tuple[int, ...]:
    """Of TCP and UDP those that the conditions let through."""
    passing = {_TCP, _UDP}
    for condition in selector.conditions:
        if condition.protocol:
            passing = {each for each in passing if (each == condition.protocol) != condition.protocol_inverted}
    return tuple(sorted(passing))


def _common_ports(selector: Selector) -> PortRanges:
    """The destination ports of a selector's first plain port condition; () if it has none."""
    for condition in selector.conditions:
        if condition.destination_ports and not condition.destination_ports_inverted:
            return condition.destination_ports
    return ()


def _condition(family: Family, hook: Hook, condition: Condition) -> Iterator[Rule]:
    source, destination = _ADDRESSES[family]
    yield from _address(source, condition.source, condition.source_mask, condition.source_inverted)
    yield from _address(destination, condition.destination, condition.destination_mask, condition.destination_inverted)
    if hook in (Hook.PREROUTING, Hook.INPUT, Hook.FORWARD):
        yield from _interface(
            MetaKey.IIFNAME, condition.in_interface, condition.in_interface_mask, condition.in_interface_inverted
        )
    if hook in (Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING):
        yield from _interface(
            MetaKey.OIFNAME, condition.out_interface, condition.out_interface_mask, condition.out_interface_inverted
        )


def _address(field: Payload, address: bytes, mask: bytes, inverted: bool) -> Iterator[Rule]:
    if not address:
        return
    wanted = Compare(Relation.NEQ if inverted else Relation.EQ, address)
    if mask.strip(b"\xff"):
        yield field, Bitwise(mask, bytes(len(mask))), wanted
    else:
        yield field, wanted


def _interface(key: MetaKey, name: bytes, mask: bytes, inverted: bool) -> Iterator[Rule]:
    """As ifname_compare() in linux/netfilter/x_tables.h: byte-wise, under the mask.

    No device has a name with something behind its NUL, so the first NUL is the end of what is compared.
    """
    compared = len(mask.rstrip(b"\0"))
    if not name or not compared:
        return
    plain = name.split(b"\0")[0]
    relation = Relation.NEQ if inverted else Relation.EQ
    if mask[:compared].strip(b"\xff"):  # a mask with holes, which iptables itself never makes
        full = mask.ljust(_IFNAMSIZ, b"\0")
        wanted = bytes(a & b for a, b in zip(plain.ljust(_IFNAMSIZ, b"\0"), full, strict=True))
        yield Meta(key), Bitwise(full, bytes(_IFNAMSIZ)), Compare(relation, wanted)
    elif compared > len(plain):  # with the NUL: the whole name
        yield Meta(key), Compare(relation, plain.ljust(_IFNAMSIZ, b"\0"))
    else:
        yield Meta(key), Compare(relation, plain[:compared])


def _port_conditions(condition: Condition) -> Iterator[Rule]:
    for field, ranges, inverted in (
        (_SOURCE_PORT, condition.source_ports, condition.source_ports_inverted),
        (_DESTINATION_PORT, condition.destination_ports, condition.destination_ports_inverted),
    ):
        if ranges:
            yield _ports(field, ranges, inverted=inverted)


def _ports(field: Payload, ranges: PortRanges, *, inverted: bool) -> Rule:
    """A port in none of the ranges is one test for each of them; in any of them, one for each gap between them."""
    merged = _merged(ranges)
    if not inverted and len(merged) == 1:
        return field, _in(Relation.EQ, *merged[0])
    return field, *(_in(Relation.NEQ, low, high) for low, high in (merged if inverted else _gaps(merged)))


def _in(relation: Relation, low: int, high: int) -> Expression:
    first = struct.pack("!H", low)
    return Compare(relation, first) if low == high else Range(relation, first, struct.pack("!H", high))


def _merged(ranges: PortRanges) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return merged


def _gaps(merged: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The ports in none of the ranges, as ranges."""
    start = 0
    for low, high in merged:
        if low > start:
            yield start, low - 1
        start = high + 1
    if start <= 0xFFFF:
        yield start, 0xFFFF


def _answers(nonce: int) -> Iterator[Rule]:
    """What REJECT answers to our packets: a reset, or an error with the packet's beginning in it.

    net/ipv4/netfilter/nf_reject_ipv4.c: the reset acknowledges sequence + 1, or repeats our acknowledgement number.
    """
    sequence, next_one = _is(struct.pack("!I", nonce)), _is(struct.pack("!I", (nonce + 1) & 0xFFFFFFFF))
    payload = _is(identity.payload(nonce))
    reset = (*_IS_PROTOCOL[_TCP], *_RESET)
    yield (*reset, _TCP_ACKNOWLEDGED, next_one, CountIn(RESETS), Verdict.DROP)
    yield (*reset, _TCP_SEQUENCE, sequence, CountIn(RESETS), Verdict.DROP)
    for family, unreachable in _UNREACHABLE.items():
        quoted = _QUOTED[family]
        yield (*unreachable, Payload(Header.TRANSPORT, quoted + 4, 4), sequence, Verdict.DROP)
        yield (*unreachable, Payload(Header.TRANSPORT, quoted + 8, 8), payload, Verdict.DROP)
