"""Ports in the headers of transport protocols, as -m tcp, udp, sctp and dccp have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import NEVER, Test
from nfkeep.migrate.values import number_range, range_test

if TYPE_CHECKING:
    from nfkeep.migrate.parts import Part

_MOST = 65535


def port_test(protocol: str, field: str, value: str, *, negated: bool = False) -> tuple[Part, ...]:
    """`FIRST[:LAST]` against `sport` or `dport` of a protocol.

    All ports are still a condition: there has to be a whole header, in the first fragment. None of them is never.
    """
    low, high = number_range(value, _MOST)
    if low > high:
        return (Test(f"{protocol} {field}", (f"0-{_MOST}",)),) if negated else (NEVER,)
    test = range_test(f"{protocol} {field}", low, high, _MOST, negated=negated)
    if test is None:
        return (NEVER,) if negated else (Test(f"{protocol} {field}", (f"0-{_MOST}",)),)
    return (test,)
