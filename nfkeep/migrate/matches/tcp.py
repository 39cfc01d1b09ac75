"""`-m tcp`: ports, flags and options of TCP (tcp_mt() in xt_tcpudp.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.fragments import first_fragment
from nfkeep.migrate.parts import NEVER, Statement, Test
from nfkeep.migrate.ports import port_test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {"--sport": 1, "--dport": 1, "--tcp-flags": 2, "--tcp-option": 1}
_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32}
_HEADER = 20


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option."""
    parts = [*first_fragment(context, _HEADER)]
    for option in match.options:
        parts += _part(option, context)
    return tuple(parts)


def _part(option: Option, context: Context) -> tuple[Part, ...]:
    if option.name in ("--sport", "--dport"):
        return port_test("tcp", option.name[2:], option.value, negated=option.negated)
    if option.name == "--tcp-flags":
        return _flags(*map(_bits, option.values), negated=option.negated)
    return _option(option, context)


def _flags(mask: int, wanted: int, *, negated: bool) -> tuple[Part, ...]:
    if wanted & ~mask:  # no masked byte can equal it
        return () if negated else (NEVER,)
    if not mask:
        return (NEVER,) if negated else ()
    return (Test(f"tcp flags & {mask:#04x}", (f"{wanted:#04x}",), negated),)


def _option(option: Option, context: Context) -> tuple[Part, ...]:
    """Whether the header has an option of this kind; kind 0 is no condition at all, negated or not (tcp_mt()).

    tcp_find_option() is content with the kind, nft_exthdr_tcp_eval() wants all of the option, and no last byte.
    """
    kind = int(option.value, 0)
    if not 0 <= kind <= 255:
        raise ValueError(f"there is no kind {kind}")
    if not kind:
        return ()
    counted = "does not match" if not option.negated else "matches"
    what = (
        "an option of this kind in the last byte"
        if kind == 1
        else "a malformed option of this kind, cut off by the end"
    )
    context.approximate(f"-m tcp {option}", f"a packet with {what} of the header as its only one {counted} here")
    return (Statement(f"tcp option {kind} {'missing' if option.negated else 'exists'}"),)


def _bits(names: str) -> int:
    if names == "NONE":
        return 0
    if names == "ALL":
        return sum(_FLAGS.values())
    return sum(_FLAGS[name] for name in set(names.split(",")))
