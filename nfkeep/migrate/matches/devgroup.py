"""`-m devgroup`: the group of the interfaces (devgroup_mt() in xt_devgroup.c).

The kernel compares what the mask leaves of both sides; iptables allows each side only where there is an interface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.numbered import numbered
from nfkeep.migrate.values import masked_test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {"--src-group": 1, "--dst-group": 1}
_LEFT = {"--src-group": "iifgroup", "--dst-group": "oifgroup"}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each side."""
    return tuple(part for option in match.options for part in _part(option))


def _part(option: Option) -> tuple[Part, ...]:
    value, slash, mask = numbered(option.value, "group").partition("/")
    if slash:
        value = f"{int(value, 0) & int(mask, 0)}"
    return masked_test(_LEFT[option.name], f"{value}{slash}{mask}", negated=option.negated)
