"""`-m tcp`: ports, flags and options of TCP (xt_tcpudp.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import AnyOf, NoneOf, Test
from nfkeep.migrate.ports import port_test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {"--sport": 1, "--dport": 1, "--tcp-flags": 2, "--tcp-option": 1}
_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option."""
    return tuple(part for option in match.options for part in _part(option))


def _part(option: Option) -> tuple[Part, ...]:
    if option.name in ("--sport", "--dport"):
        return port_test("tcp", option.name[2:], option.value, negated=option.negated)
    if option.name == "--tcp-flags":
        mask, wanted = map(_bits, option.values)
        return (Test(f"tcp flags & {mask:#04x}", (f"{wanted:#04x}",), option.negated),)
    way = (Test(f"tcp option @{option.value},0,8", (option.value,)),)
    return (NoneOf((way,)) if option.negated else AnyOf((way,)),)


def _bits(names: str) -> int:
    if names == "NONE":
        return 0
    if names == "ALL":
        return sum(_FLAGS.values())
    return sum(_FLAGS[name] for name in names.split(","))
