"""`-j REDIRECT`: to this host itself (nf_nat_redirect_ipv4(), _ipv6())."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.nat import to_ports

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Simple
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--to-ports": 1, "--random": 0}


def translate(target: Extension, context: Context) -> tuple[Simple, ...]:
    """One statement, the last one: it accepts."""
    return to_ports("redirect", target, context)
