"""`-j TCPOPTSTRIP`: options of TCP overwritten with padding (tcpoptstrip_mangle_packet() in xt_TCPOPTSTRIP.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Rows, Statement, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Simple
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--strip-options": 1}
_IN_A_RULE = 10  # a rule of nft has at most 128 expressions
_MOST = 20  # options of two octets in the 40 that there are


def translate(target: Extension, context: Context) -> tuple[Statement, ...] | Rows:
    """A rule for each option, and more for a packet that has one of them several times.

    nft takes away the first of its kind, and drops a packet where that overruns the header
    (nft_exthdr_tcp_strip_eval()); iptables takes away all, and leaves such a one.
    """
    if not target.options:
        return ()
    numbers = [int(each, 0) for each in target.options[0].value.split(",")]
    again = Rows(tuple(_stripped(n) * _IN_A_RULE for n in numbers for _ in range(_MOST // _IN_A_RULE)))
    return Rows((*map(_stripped, numbers), *((_exists(n), again) for n in numbers)))


def _stripped(number: int) -> tuple[Simple, ...]:
    return _exists(number), Statement(f"reset tcp option {number}")


def _exists(number: int) -> Test:
    return Test(f"tcp option {number}", ("exists",))
