"""`-m icmp`: type and code (icmp_match() in xt_tcpudp.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.fragments import first_fragment
from nfkeep.migrate.icmp_types import type_test
from nfkeep.migrate.parts import NEVER

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--icmp-type": 1}
_HEADER = 8
_ANY = 255


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test; type 255 is any type, whatever the code (icmp_type_code_match())."""
    (option,) = match.options
    start = first_fragment(context, _HEADER)
    if option.value == "any" or option.value.partition("/")[0] == str(_ANY):
        return (NEVER,) if option.negated else start
    return (*start, *type_test("icmp", option.value, negated=option.negated))
