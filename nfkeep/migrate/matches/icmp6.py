"""`-m icmp6`: type and code (icmp6_match() in xt_tcpudp.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.fragments import first_fragment
from nfkeep.migrate.icmp_types import type_test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--icmpv6-type": 1}
_HEADER = 8


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test."""
    (option,) = match.options
    return (*first_fragment(context, _HEADER), *type_test("icmpv6", option.value, negated=option.negated))
