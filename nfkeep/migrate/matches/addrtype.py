"""`-m addrtype`: what kind of address the routing takes the source or the destination for.

IPv4 (match_type() in xt_addrtype.c): one of the listed types; nft_fib4_eval_type() looks into the same table, the
local one, but where the interface belongs to a VRF: then into the VRF's. IPv6 (match_type6()) is another matter: of
MULTICAST, UNICAST and UNSPEC every one has to be true, and then one of LOCAL, ANYCAST and UNREACHABLE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import NoneOf, Test
from nfkeep.migrate.states import listed

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {"--src-type": 1, "--dst-type": 1, "--limit-iface-in": 0, "--limit-iface-out": 0}
_TYPES = {
    "UNSPEC": "unspec",
    "UNICAST": "unicast",
    "LOCAL": "local",
    "BROADCAST": "broadcast",
    "ANYCAST": "anycast",
    "MULTICAST": "multicast",
    "BLACKHOLE": "blackhole",
    "UNREACHABLE": "unreachable",
    "PROHIBIT": "prohibit",
    "THROW": "9",
    "NAT": "10",
    "XRESOLVE": "11",
}
_MULTICAST, _NOBODY, _MAPPED = "ff00::/8", "::", "::ffff:0:0/96"
_BY_ADDRESS = {  # ipv6_addr_type(): what it calls unicast
    "MULTICAST": ((_MULTICAST,), False),
    "UNICAST": ((_NOBODY, _MAPPED, _MULTICAST), True),
    "UNSPEC": ((_NOBODY,), False),
}
_BY_ROUTE = {
    "LOCAL": ("local",),
    "ANYCAST": ("anycast",),
    "UNREACHABLE": ("blackhole", "unreachable", "prohibit", _TYPES["THROW"]),
}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each side; with IPv6 perhaps several."""
    limit = " . iif" if match.option("--limit-iface-in") else " . oif" if match.option("--limit-iface-out") else ""
    parts: list[Part] = []
    for option in match.options:
        if option.name not in ("--src-type", "--dst-type"):
            continue
        side = "saddr" if option.name == "--src-type" else "daddr"
        names = listed(option.value, tuple(_TYPES))
        if context.v6:
            parts += _v6(option, names, side, limit, context)
        else:
            parts.append(Test(f"fib {side}{limit} type", tuple(_TYPES[name] for name in names), option.negated))
    return tuple(parts)


def _v6(option: Option, names: tuple[str, ...], side: str, limit: str, context: Context) -> tuple[Part, ...]:
    if refused := [name for name in names if name not in _BY_ADDRESS and name not in _BY_ROUTE]:
        raise Lost(f"ip6tables has no type {refused[0]}")
    tests = [Test(f"ip6 {side}", *_BY_ADDRESS[name]) for name in names if name in _BY_ADDRESS]
    types = [kind for name in names for kind in _BY_ROUTE.get(name, ())]
    if types:
        if limit and not {"ANYCAST", "UNREACHABLE"}.isdisjoint(names):
            raise Lost("nft looks the route up without the interface", "leave out the limit to an interface")
        tests.append(Test(f"fib {side}{limit} type", tuple(types)))
        if not limit:
            context.approximate(
                option,
                "a link-local address that only another interface of the host has is not local to nft, "
                "and rules of routing that ask for the other address of the packet are heeded",
                "nothing to do where these do not matter",
            )
    if len(tests) == 1:
        (test,) = tests
        return (Test(test.left, test.values, test.negated != option.negated),)
    return (NoneOf((tuple(tests),)),) if option.negated else tuple(tests)
