"""`-m udp`: ports (xt_tcpudp.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.ports import port_test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--sport": 1, "--dport": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option."""
    return tuple(
        part
        for option in match.options
        for part in port_test(context.protocol or "udp", option.name[2:], option.value, negated=option.negated)
    )
