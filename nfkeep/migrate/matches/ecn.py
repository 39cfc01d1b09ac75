"""`-m ecn`: explicit congestion notification in the headers of IP and TCP (xt_ecn.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {"--ecn-tcp-cwr": 0, "--ecn-tcp-ece": 0, "--ecn-ip-ect": 1}
_FLAGS = {"--ecn-tcp-ece": "0x40", "--ecn-tcp-cwr": "0x80"}
_MOST = 3


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option; each may be negated for itself."""
    return tuple(_test(option, context) for option in match.options)


def _test(option: Option, context: Context) -> Test:
    if flag := _FLAGS.get(option.name):
        return Test(f"tcp flags & {flag}", (flag,), option.negated)
    value = int(option.value, 0)
    if not 0 <= value <= _MOST:
        raise ValueError(f"{value} is none")
    return Test(f"{context.ip} ecn", (str(value),), option.negated)
