"""Types and codes of ICMP, as -m icmp and icmp6 have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Statement, Test

if TYPE_CHECKING:
    from nfkeep.migrate.parts import Part


def type_test(protocol: str, value: str, *, negated: bool = False) -> tuple[Part, ...]:
    """`TYPE[/CODE]` against a header of `icmp` or `icmpv6`."""
    kind_text, given, code_text = value.partition("/")
    kind = _octet(kind_text)
    if not given:
        return (Test(f"{protocol} type", (kind,), negated),)
    code = _octet(code_text)
    if negated:
        return (Statement(f"{protocol} type . {protocol} code != {{ {kind} . {code} }}"),)
    return (Test(f"{protocol} type", (kind,)), Test(f"{protocol} code", (code,)))


def _octet(text: str) -> str:
    number = int(text)
    if not 0 <= number <= 255:
        raise ValueError(f"{number} is no type or code")
    return str(number)
