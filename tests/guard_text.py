"""The guard table written a second time, as nft text: what nfkeep.keep.guard makes must be the same in the kernel."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping

from nfkeep.conntrack import identity
from nfkeep.conntrack.select import Condition, Selector
from nfkeep.keep.guard import RESETS, arrived
from nfkeep.model import Family, Hook

_TCP, _UDP = 6, 17
_CONNTRACK_DONE = -199  # one behind NF_IP_PRI_CONNTRACK
_LAST = 2147483646
_SAFE_INTERFACE = re.compile(rb"[A-Za-z0-9_.@-]+")


def guard_table(
    family: Family, selectors: tuple[Selector, ...], hooks: Mapping[Hook, int], nonces: Mapping[Hook, int], *,
    open_again_seconds: int,
) -> str:  # fmt: skip
    """The body of the table. `hooks`: those of the watched table, with its priority there.

    However long the holder lives, the gate opens by itself after `open_again_seconds`.
    """
    chains = [
        f"set shut {{\ntype inet_proto\nflags timeout\n"
        f"elements = {{ tcp timeout {open_again_seconds}s, udp timeout {open_again_seconds}s }}\n}}\n"
    ]
    own = [line for nonce in nonces.values() for line in _own(nonce, "accept")]
    for hook in (Hook.PREROUTING, Hook.OUTPUT):
        chains.append(_chain("midstream", hook, _CONNTRACK_DONE, [*own, *_midstream(selectors)]))
    for hook, priority in hooks.items():
        shut = [line for selector in selectors if selector.hook is hook for line in _opening(family, selector)]
        if shut:
            chains.append(_chain("gate", hook, max(priority - 1, _CONNTRACK_DONE), [*own, *shut]))
        counter = arrived(hook)
        chains.append(f"counter {counter} {{ }}\n")
        chains.append(_chain("sink", hook, priority + 1, _own(nonces[hook], f"counter name {counter} drop")))
    chains.append(f"counter {RESETS} {{ }}\n")
    everything = [line for nonce in nonces.values() for line in _own(nonce, "drop")]
    chains.append(_chain("last", Hook.INPUT, _LAST, everything))
    chains.append(_chain("last", Hook.POSTROUTING, _LAST, ['oifname "lo" accept', *everything]))
    chains.append(_chain("hush", Hook.OUTPUT, -401, [line for nonce in nonces.values() for line in _answers(nonce)]))
    return "".join(chains)


def tcp_match(nonce: int) -> str:
    """The nft expression that a TCP opening packet with this nonce matches: SYN or SYN|ACK, and the sequence number."""
    return f"tcp flags & (fin | syn | rst) == syn tcp sequence {nonce}"


def udp_match(nonce: int) -> str:
    """The nft expression that a UDP opening packet with this nonce matches: its length and its whole payload."""
    return f"meta l4proto udp udp length 16 @th,64,64 0x{identity.payload(nonce).hex()}"


def _chain(job: str, hook: Hook, priority: int, lines: list[str]) -> str:
    place = hook.name.lower()
    rules = "".join(f"{line}\n" for line in lines)
    return f"chain {job}_{place} {{\ntype filter hook {place} priority {priority}\n{rules}}}\n"


def _own(nonce: int, verdict: str) -> list[str]:
    return [f"{tcp_match(nonce)} {verdict}", f"{udp_match(nonce)} {verdict}"]


def _midstream(selectors: tuple[Selector, ...]) -> Iterator[str]:
    """For the microseconds in which a flow's entry is away: its packets must not start a new one, or be refused.

    TCP sends them again. Whether an unknown UDP packet is in midstream nobody can tell, so there the ports decide.
    """
    yield "meta l4proto @shut meta l4proto tcp ct state new tcp flags & syn == 0x0 drop"
    udp = [selector for selector in selectors if _UDP in _protocols(selector)]
    ranges = [_common_ports(selector) for selector in udp]
    if any(not each for each in ranges):
        yield "meta l4proto @shut meta l4proto udp ct state new drop"
    else:
        for each in ranges:
            yield f"meta l4proto @shut meta l4proto udp ct state new udp dport {each} drop"
            yield f"meta l4proto @shut meta l4proto udp ct state new udp sport {each} drop"


def _opening(family: Family, selector: Selector) -> Iterator[str]:
    where = f"meta nfproto {'ipv6' if family is Family.IPV6 else 'ipv4'}"
    told = "".join(part for condition in selector.conditions for part in _condition(family, selector.hook, condition))
    for protocol in _protocols(selector):
        name = "tcp" if protocol == _TCP else "udp"
        ports = "".join(part for condition in selector.conditions for part in _ports(name, condition))
        first = "tcp flags & (fin | syn | rst | ack) == syn" if protocol == _TCP else "ct state new"
        yield f"meta l4proto @shut {where} meta l4proto {name}{told}{ports} {first} counter drop"


def _protocols(selector: Selector) -> tuple[int, ...]:
    """Of TCP and UDP those that the conditions let through."""

    def passes(protocol: int) -> bool:
        return all(not c.protocol or (c.protocol == protocol) != c.protocol_inverted for c in selector.conditions)

    return tuple(protocol for protocol in (_TCP, _UDP) if passes(protocol))


def _common_ports(selector: Selector) -> str:
    """The destination ports of a selector's first plain port condition; "" if it has none."""
    for condition in selector.conditions:
        if condition.destination_ports and not condition.destination_ports_inverted:
            return _set(condition.destination_ports)
    return ""


def _condition(family: Family, hook: Hook, condition: Condition) -> Iterator[str]:
    ip = "ip6" if family is Family.IPV6 else "ip"
    yield from _address(f"{ip} saddr", condition.source, condition.source_mask, condition.source_inverted)
    yield from _address(
        f"{ip} daddr", condition.destination, condition.destination_mask, condition.destination_inverted
    )
    if hook in (Hook.PREROUTING, Hook.INPUT, Hook.FORWARD):
        yield from _interface(
            "iifname", condition.in_interface, condition.in_interface_mask, condition.in_interface_inverted
        )
    if hook in (Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING):
        yield from _interface(
            "oifname", condition.out_interface, condition.out_interface_mask, condition.out_interface_inverted
        )


def _address(field: str, address: bytes, mask: bytes, inverted: bool) -> Iterator[str]:
    if not address:
        return
    relation = "!=" if inverted else "=="
    yield f" {field} & {ipaddress.ip_address(mask)} {relation} {ipaddress.ip_address(address)}"


def _interface(field: str, name: bytes, mask: bytes, inverted: bool) -> Iterator[str]:
    if not name:
        return
    plain = name.split(b"\0")[0]
    compared = len(mask.rstrip(b"\0"))  # longer than the name, by its NUL, if the whole name is meant
    prefix = plain[:compared]
    # Names from the kernel may hold anything; one that nft could misread is left out, so that more is held off.
    if _SAFE_INTERFACE.fullmatch(prefix) is None:
        return
    star = "" if compared > len(plain) else "*"
    yield f' {field} {"!= " if inverted else ""}"{prefix.decode()}{star}"'


def _ports(protocol: str, condition: Condition) -> Iterator[str]:
    for field, ranges, inverted in (
        ("sport", condition.source_ports, condition.source_ports_inverted),
        ("dport", condition.destination_ports, condition.destination_ports_inverted),
    ):
        if ranges:
            yield f" {protocol} {field} {'!= ' if inverted else ''}{_set(ranges)}"


def _set(ranges: tuple[tuple[int, int], ...]) -> str:
    """An anonymous set of the ranges, merged, since nft refuses overlaps."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return "{ " + ", ".join(f"{low}-{high}" if low != high else str(low) for low, high in merged) + " }"


def _answers(nonce: int) -> Iterator[str]:
    """What REJECT answers to our packets: a reset, or an error with the packet's beginning in it.

    net/ipv4/netfilter/nf_reject_ipv4.c: the reset acknowledges sequence + 1, or repeats our acknowledgement number.
    """
    payload = identity.payload(nonce).hex()
    yield f"tcp flags & rst == rst tcp ackseq {(nonce + 1) & 0xFFFFFFFF} counter name {RESETS} drop"
    yield f"tcp flags & rst == rst tcp sequence {nonce} counter name {RESETS} drop"
    yield f"icmp type destination-unreachable @th,256,32 {nonce} drop"
    yield f"icmp type destination-unreachable @th,288,64 0x{payload} drop"
    yield f"icmpv6 type destination-unreachable @th,416,32 {nonce} drop"
    yield f"icmpv6 type destination-unreachable @th,448,64 0x{payload} drop"
