"""`-m realm`: the realm of the packet's route (realm_mt() in xt_realm.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.numbered import numbered
from nfkeep.migrate.values import masked_test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--realm": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test."""
    return tuple(
        part
        for option in match.options
        for part in masked_test("meta rtclassid", numbered(option.value, "rt_realms"), negated=option.negated)
    )
