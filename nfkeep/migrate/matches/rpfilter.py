"""`-m rpfilter`: an answer would go out where the packet came in.

IPv4 (rpfilter_mt() in ipt_rpfilter.c): nft_fib4_eval() does the same lookup, but is content with a route that leads to
a broadcast or anycast address. IPv6 (ip6t_rpfilter.c): nft_fib6_eval() does not ask for a route over this interface,
it takes the one it finds and compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import AnyOf, NoneOf, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part, Simple
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--loose": 0, "--validmark": 0, "--accept-local": 0, "--invert": 0}
_NOT_LOOKED_UP = ("0.0.0.0/8", "255.255.255.255")  # inet_addr_type(): broadcast, though no route says so
_NO_SOURCES = ("broadcast", "anycast")


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """The ways in which the source is a good one."""
    given = {option.name for option in match.options}
    limit = "" if "--loose" in given else " . iif"
    mark = " . mark" if "--validmark" in given else ""
    found = Test(f"fib saddr{mark}{limit} oif", ("0",), negated=True)
    ways: list[tuple[Simple, ...]] = []
    if context.v6:
        ways = [(found,), (Test("ip6 saddr", ("::",)),)]
        if "--loose" not in given:
            context.approximate(
                match, "where several routes lead back, nft looks at the best one only, not at that of the interface"
            )
    else:
        no_sources = Test("fib saddr type", _NO_SOURCES, negated=True)
        ways = [(no_sources, found), (Test("ip saddr", _NOT_LOOKED_UP), found)]
    if "--accept-local" in given:
        # A local address is good by itself with IPv6; with IPv4 only if this interface has it.
        ways.append((Test(f"fib saddr{'' if context.v6 else limit} type", ("local",)),))
    return (NoneOf(tuple(ways)) if "--invert" in given else AnyOf(tuple(ways)),)
