"""The rules of ban lists in nftables, as values: which chains there are and what is in each. Pure, no I/O.

    input, forward   base chains, ahead of mangle and filter: jump lists
    lists            jump ban/NAME, for each list
    ban/NAME         a lookup for each set of the list: goto ban/NAME/hit
    ban/NAME/hit     jump allowed, then what happens to packets of which services
    allowed          accept, which ends this table's part, so that the allow list wins over every list

Only packets of banned addresses get beyond ban/NAME. Each rule has a comment, by which it is known again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from nfkeep.bans.values import Action, Kind, Policy, Rejection, Service
from nfkeep.errors import InvalidListError
from nfkeep.model import Family, Hook
from nfkeep.nft.lasting import TABLE as TABLE
from nfkeep.nft.ruleset import (
    Bitwise,
    Compare,
    Counter,
    Ct,
    CtKey,
    Expression,
    Header,
    Jump,
    Lookup,
    Meta,
    MetaKey,
    Payload,
    Range,
    Reject,
    RejectType,
    Relation,
    Rule,
    Verdict,
)

BASE_CHAINS = {"input": Hook.INPUT, "forward": Hook.FORWARD}
PRIORITY = -160
"""Ten before mangle, so that a banned packet is in no counter and no limit of other rules of its hook."""
LISTS, ALLOWED = "lists", "allowed"
ALLOW_SETS = "allow"

Commented: TypeAlias = tuple[str, Rule]
"""A comment and its rule."""


def list_chain(name: str) -> str:
    """The chain that looks a packet's source up."""
    return f"ban/{name}"


def hit_chain(name: str) -> str:
    """The chain that a banned packet goes through."""
    return f"ban/{name}/hit"


def set_label(kind: Kind, prefix: int = 0) -> str:
    """What tells the sets of a list apart: v4 and v6 for hosts, net4/24 and the like for networks of one prefix."""
    digit = "6" if kind.family is Family.IPV6 else "4"
    return f"net{digit}/{prefix}" if kind.is_network else f"v{digit}"


def read_label(label: str) -> tuple[Kind, int] | None:
    """Kind and prefix (0 for hosts) that `set_label` gave; None for other text."""
    for kind in (Kind.HOST4, Kind.HOST6):
        if label == set_label(kind):
            return kind, 0
    head, _, prefix = label.partition("/")
    kinds = {"net4": Kind.NET4, "net6": Kind.NET6}
    return (kinds[head], int(prefix)) if head in kinds and prefix.isdecimal() else None


def jump_to_lists() -> Commented:
    """The only rule of the base chains."""
    return LISTS, (Jump(LISTS),)


def jump_to_list(name: str) -> Commented:
    """The rule of a list in the chain `lists`."""
    return name, (Jump(list_chain(name)),)


def from_loopback() -> Commented:
    """Own addresses are never banned: packets from them come in by lo only (martians are dropped by the kernel)."""
    return "lo", (Meta(MetaKey.IIFNAME), Compare(Relation.EQ, b"lo".ljust(16, b"\0")), Verdict.ACCEPT)


def neighbour_discovery() -> Commented:
    """Who is on the same link is found by ICMPv6 (RFC 4861, types 133 to 136), also to be told of a rejection."""
    return "nd", (
        Meta(MetaKey.NFPROTO),
        Compare(Relation.EQ, bytes([Family.IPV6.value])),
        *_protocol(58),
        Payload(Header.TRANSPORT, 0, 1),
        Range(Relation.EQ, bytes([133]), bytes([136])),
        Verdict.ACCEPT,
    )


def lookup(set_name: str, label: str, end: Expression) -> Commented:
    """The rule that ends with `end` where the packet's source is in a set."""
    found = read_label(label)
    assert found is not None, label
    kind, prefix = found
    length, offset = (16, 8) if kind.family is Family.IPV6 else (4, 12)
    rule: list[Expression] = [
        Meta(MetaKey.NFPROTO),
        Compare(Relation.EQ, bytes([kind.family.value])),
        Payload(Header.NETWORK, offset, length),
    ]
    if kind.is_network:
        mask = ((1 << prefix) - 1) << (length * 8 - prefix)
        rule.append(Bitwise(mask.to_bytes(length, "big"), bytes(length)))
    return label, (*rule, Lookup(set_name), end)


def hit_rules(policy: Policy) -> Iterator[Commented]:
    """What a banned packet meets: the allow list, then the policy. The first comment is the policy in words."""
    yield f"{_POLICY}{policy}", (Jump(ALLOWED),)
    if not policy.services:
        if policy.action is Action.REJECT and policy.rejection is Rejection.TCP_RESET:
            yield "all tcp", (*_protocol(_TCP), Counter(), *_ends(policy, _TCP))
        yield "all", (Counter(), *_ends(policy, 0))
    for service in policy.services:
        ends = (Counter(), *_ends(policy, service.protocol))
        if (service.low, service.high) == (0, 65535):
            yield str(service), (*_protocol(service.protocol), *ends)
            continue
        yield str(service), (*_protocol(service.protocol), Payload(Header.TRANSPORT, 2, 2), _ports(service), *ends)
        # what DNAT and REDIRECT sent to another port was meant for the one that the client dialled
        dialled = (Ct(CtKey.DIRECTION), Compare(Relation.EQ, b"\0"), Ct(CtKey.PROTO_DST, original=True))
        yield f"{service} before NAT", (*_protocol(service.protocol), *dialled, _ports(service), *ends)


def read_policy(comments: Iterable[str]) -> Policy | None:
    """The policy that the comments of a hit chain tell; None without one that can be read."""
    for comment in comments:
        if comment.startswith(_POLICY):
            with contextlib.suppress(InvalidListError):
                return Policy.parse(comment.removeprefix(_POLICY))
    return None


_POLICY = "nfkeep ban list: "
_TCP = 6
_CODES = {
    Rejection.NO_ROUTE: 0,
    Rejection.PORT_UNREACHABLE: 1,
    Rejection.HOST_UNREACHABLE: 2,
    Rejection.ADMIN_PROHIBITED: 3,
    Rejection.TCP_RESET: 1,  # of what is not TCP
}


def _protocol(number: int) -> tuple[Expression, ...]:
    return Meta(MetaKey.L4PROTO), Compare(Relation.EQ, bytes([number]))


def _ports(service: Service) -> Expression:
    low, high = service.low.to_bytes(2, "big"), service.high.to_bytes(2, "big")
    return Compare(Relation.EQ, low) if low == high else Range(Relation.EQ, low, high)


def _ends(policy: Policy, protocol: int) -> tuple[Expression, ...]:
    if policy.action is Action.DROP:
        return (Verdict.DROP,)
    if policy.action is Action.COUNT:
        return ()
    if policy.rejection is Rejection.TCP_RESET and protocol == _TCP:
        return (Reject(RejectType.TCP_RESET),)
    return (Reject(RejectType.ICMPX, _CODES[policy.rejection]),)
