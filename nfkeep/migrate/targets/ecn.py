"""`-j ECN`: the bits of explicit congestion notification, in TCP's header and in IPv4's (ecn_tg() in ipt_ECN.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Rows, Statement, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Simple
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--ecn-tcp-remove": 0, "--ecn-tcp-ece": 1, "--ecn-tcp-cwr": 1, "--ecn-ip-ect": 1}
_ECE, _CWR = 0x40, 0x80


def translate(target: Extension, context: Context) -> tuple[Statement, ...] | Rows:
    """TCP's checksum is corrected where nft knows the flags by name, and there it writes constants: one rule for each.

    A TCP header that is cut short, which ECN drops, goes on here.
    """
    ip = tuple(Statement(f"ip ecn set {int(o.value, 0)}") for o in target.options if o.name == "--ecn-ip-ect")
    mask, value = _tcp(target)
    if not mask:
        return ip
    rows: list[tuple[Simple, ...]] = [ip] if ip else []
    rows.append((Test(f"tcp flags & {mask:#04x}", (f"{value:#04x}",)), Statement("return")))
    rows += [_row(flags, mask, value) for flags in range(256) if flags & mask == value]
    return Rows(tuple(rows))


def _tcp(target: Extension) -> tuple[int, int]:
    """The bits to write in TCP's flags, and what to."""
    mask = value = 0
    for option in target.options:
        if option.name == "--ecn-tcp-remove":
            mask |= _ECE | _CWR
        elif option.name != "--ecn-ip-ect":
            bit = _ECE if option.name == "--ecn-tcp-ece" else _CWR
            mask |= bit
            value |= bit * int(option.value, 0)
    return mask, value


def _row(flags: int, mask: int, value: int) -> tuple[Simple, ...]:
    """One result. `tcp flags 0x02` would be any packet with that bit, hence all bits with a mask."""
    others = (each for each in range(256) if each & ~mask == flags & ~mask and each & mask != value)
    return Test("tcp flags & 0xff", tuple(f"{each:#04x}" for each in others)), Statement(f"tcp flags set {flags:#04x}")
