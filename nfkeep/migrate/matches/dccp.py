"""`-m dccp`: ports and packet types of DCCP (xt_dccp.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.fragments import first_fragment
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import Test
from nfkeep.migrate.ports import port_test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {"--sport": 1, "--dport": 1, "--dccp-types": 1, "--dccp-option": 1}
_HEADER = 12
_TYPES = ("REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC", "SYNCACK")
_INVALID = "10-15"  # INVALID: all the others (INVALID_OTHER_TYPE_MASK in libxt_dccp.c)


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option."""
    parts = (part for option in match.options for part in _part(option))
    return (*first_fragment(context, _HEADER), *parts)


def _part(option: Option) -> tuple[Part, ...]:
    if option.name == "--dccp-option":
        raise Lost("nft 1.0.6 cannot look for options of DCCP", "match ports and types only")
    if option.name != "--dccp-types":
        return port_test("dccp", option.name[2:], option.value, negated=option.negated)
    values = tuple(_INVALID if name == "INVALID" else _type(name) for name in option.value.split(","))
    return (Test("dccp type", values, option.negated),)


def _type(name: str) -> str:
    if name not in _TYPES:
        raise ValueError(f"there is no type {name}")
    return name.lower()
