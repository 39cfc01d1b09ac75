"""`-m multiport`: several ports and ranges of the source, the destination, or either (xt_multiport.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.fragments import first_fragment
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import NEVER, AnyOf, Test
from nfkeep.migrate.ports import MOST, transport
from nfkeep.migrate.values import merged, number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--sports": 1, "--dports": 1, "--ports": 1}
_PROTOCOLS = frozenset({"tcp", "udp", "udplite", "sctp", "dccp"})  # check() in xt_multiport.c
_HEADER = 4


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test; for either port a choice, whose opposite is that neither is among them."""
    (option,) = match.options
    protocol = transport(context, "")
    if protocol not in _PROTOCOLS:
        raise Lost("it needs a protocol that has ports", "name it with -p")
    ports = merged([number_range(each, MOST) for each in option.value.split(",")])
    start = first_fragment(context, _HEADER)
    sides = ("sport", "dport") if option.name == "--ports" else (option.name[2:-1],)
    if ports == ((0, MOST),):
        return (NEVER,) if option.negated else (*start, Test(f"{protocol} {sides[0]}", (f"0-{MOST}",)))
    values = tuple(str(low) if low == high else f"{low}-{high}" for low, high in ports)
    tests = tuple(Test(f"{protocol} {side}", values, option.negated) for side in sides)
    if len(tests) == 1 or option.negated:
        return (*start, *tests)
    return (*start, AnyOf(tuple((test,) for test in tests)))
