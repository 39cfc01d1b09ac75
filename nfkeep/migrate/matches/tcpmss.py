"""`-m tcpmss`: the maximum segment size that a packet of TCP tells (xt_tcpmss.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import AnyOf, NoneOf, Test
from nfkeep.migrate.values import number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--mss": 1}
_MOST = 65535


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One choice: negated, it holds for a packet without the option too. An option of another length is none."""
    (option,) = match.options
    if not context.defragmented:
        context.approximate_in_general(
            "-m tcpmss",
            "iptables takes later fragments for TCP headers, and drops those that make none; here none has the option",
            "use conntrack, which puts packets together, or drop fragments",
        )
    low, high = number_range(option.value, _MOST)
    if low > high:
        raise ValueError(f"{option.value} is upside down")
    size = str(low) if low == high else f"{low}-{high}"
    way = (Test("tcp option maxseg length", ("4",)), Test("tcp option maxseg size", (size,)))
    return (NoneOf((way,)) if option.negated else AnyOf((way,)),)
