"""`-m udp`: ports of UDP and UDP-Lite (udp_mt() in xt_tcpudp.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.fragments import first_fragment
from nfkeep.migrate.ports import port_test, transport

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--sport": 1, "--dport": 1}
_HEADER = 8


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option."""
    protocol = transport(context, "udp")
    tests = (port_test(protocol, each.name[2:], each.value, negated=each.negated) for each in match.options)
    return (*first_fragment(context, _HEADER), *(part for test in tests for part in test))
