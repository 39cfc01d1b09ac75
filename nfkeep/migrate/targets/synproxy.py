"""`-j SYNPROXY`: this host answers the handshake first (xt_SYNPROXY and nft_synproxy.c share nf_synproxy_core.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--sack-perm": 0, "--timestamp": 0, "--wscale": 1, "--mss": 1, "--ecn": 0}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement."""
    if target.option("--ecn"):
        raise Lost("nft's synproxy has no ECN", "leave --ecn out, if that will do")
    words = ["synproxy"]
    for option in target.options:
        words.append(option.name[2:] + (f" {int(option.value, 0)}" if option.values else ""))
    return (Statement(" ".join(words)),)
