"""`-m iprange`: addresses from one to another (xt_iprange.c)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from nfkeep.migrate.parts import NEVER, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {"--src-range": 1, "--dst-range": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option."""
    return tuple(part for option in match.options for part in _part(option, context))


def _part(option: Option, context: Context) -> tuple[Part, ...]:
    first, given, last = option.value.partition("-")
    kind = ipaddress.IPv6Address if context.v6 else ipaddress.IPv4Address
    low = kind(first)
    high = kind(last) if given else low
    if int(low) > int(high):
        return () if option.negated else (NEVER,)
    if int(low) == 0 and int(high) + 1 == 1 << high.max_prefixlen:
        return (NEVER,) if option.negated else ()
    left = f"{context.ip} {'saddr' if option.name == '--src-range' else 'daddr'}"
    return (Test(left, (str(low) if low == high else f"{low}-{high}",), option.negated),)
