"""`-m nfacct`: count the packets that come as far as here in the rule (nfacct_mt() in xt_nfacct.c); a named counter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--nfacct-name": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """It always matches, if the object has no quota; and that iptables-save does not show."""
    name = match.options[0].value
    context.approximate(
        match,
        "the counter begins at zero, and if the object of nfacct has a quota, the rule matches below it as well",
        f"see it with: nfacct list; if there is a quota, write it as a quota of nft in place of counter {name}",
    )
    return (Statement(f'counter name "{context.objects.declare("counter", name, ())}"'),)
