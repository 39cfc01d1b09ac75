"""`-j TCPOPTSTRIP`: options of TCP overwritten with padding (tcpoptstrip_mangle_packet() in xt_TCPOPTSTRIP.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Rows, Statement, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--strip-options": 1}


def translate(target: Extension, context: Context) -> tuple[Statement, ...] | Rows:
    """A rule for each option; one that overruns the header is left, nft would drop it (nft_exthdr_tcp_strip_eval())."""
    if not target.options:
        return ()
    context.approximate(
        f"-j {target}",
        "of an option that a packet has several times only the first is taken away; iptables takes all",
        "no host sends such packets by itself",
    )
    numbers = [int(each) for each in target.options[0].value.split(",")]
    return Rows(tuple((Test(f"tcp option {n}", ("exists",)), Statement(f"reset tcp option {n}")) for n in numbers))
