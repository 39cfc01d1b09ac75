"""What nft can do to a connection only behind conntrack, and iptables prepares before it, in the table raw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import AnyOf, NoneOf, Statement, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.source import SourceRule

# What is the same for a packet before conntrack and right behind it.
_LASTING = frozenset(
    {"ip", "ip6", "tcp", "udp", "udplite", "sctp", "dccp", "th", "icmp", "icmpv6", "iifname", "oifname"}
)
INDIFFERENT = frozenset({None, "ACCEPT", "RETURN", "DROP", "LOG", "NFLOG", "TRACE", "AUDIT", "MARK"})
"""Targets of the table raw that do nothing about conntrack; None is that of a rule without."""

_GOING_ON = INDIFFERENT - {"ACCEPT", "RETURN"} | {"NOTRACK"}


def behind_conntrack(context: Context, *, events: bool) -> None:
    """Make sure that the rule's packets can be found again behind conntrack, for `context.tracked`.

    `events`: it is them that are chosen there.
    Raises Lost where other packets might get there than here: the rule is in a user chain, a rule before it takes
    packets away, or they would have to be told apart by what changes on the way or is counted.
    """
    if context.policy is None:
        raise Lost("nft does this behind conntrack only, where no packet comes by jumps from here", _ADVICE)
    if before := [rule for rule in context.earlier if not _goes_on(rule, events)]:
        raise Lost(f"nft does this behind conntrack only, and line {before[0].line} may decide before it", _ADVICE)
    if not all(_lasting(part) for part in context.parts):
        raise Lost("nft does this behind conntrack only, where the rule's conditions might not be the same", _ADVICE)


_ADVICE = "write a rule of nft in a chain behind conntrack, with priority -199"


def target_of(rule: SourceRule) -> str | None:
    """What the rule does with packets, or where they go."""
    return next((rule.words[n + 1] for n, word in enumerate(rule.words[:-1]) if word in ("-j", "-g")), None)


def _goes_on(rule: SourceRule, events: bool) -> bool:
    """Whether a packet gets past a rule, if it is not dropped, and without having been prepared for conntrack.

    Helpers may come first: nft as well keeps the first one. Events would be those of the last.
    """
    if target_of(rule) == "CT":
        return "--notrack" in rule.words or ("--helper" in rule.words and "--ctevents" not in rule.words and not events)
    return target_of(rule) in _GOING_ON


def _lasting(part: Part) -> bool:
    if isinstance(part, (AnyOf, NoneOf)):
        return all(_lasting(each) for way in part.ways for each in way)
    if isinstance(part, Statement):
        return False
    assert isinstance(part, Test)
    return part.left == "meta l4proto" or part.left.split()[0] in _LASTING
