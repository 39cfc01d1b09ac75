"""`-j MASQUERADE`: the source of the interface that the packet leaves by (nf_nat_masquerade_ipv4(), _ipv6())."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.nat import to_ports

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Simple
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--to-ports": 1, "--random": 0, "--random-fully": 0}


def translate(target: Extension, context: Context) -> tuple[Simple, ...]:
    """One statement, the last one: it accepts."""
    return to_ports("masquerade", target, context)
