"""`-j CONNMARK`: the connection's mark, from and to the packet's (connmark_tg_shift() in xt_connmark.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.marks import changed, split_mark
from nfkeep.migrate.parts import Rows, Statement, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {
    "--set-xmark": 1, "--save-mark": 0, "--restore-mark": 0, "--nfmask": 1, "--ctmask": 1, "--left-shift-mark": 1,
    "--right-shift-mark": 1,
}  # fmt: skip
_ALL = 0xFFFFFFFF
_HAS_ENTRY = Test("ct state", ("invalid", "untracked"), negated=True)


@attrs.frozen(slots=True)
class _Shift:
    """By how many bits a mark is moved: to the left, or with a negative number to the right."""

    bits: int

    def of(self, number: int) -> int:
        return (number << self.bits if self.bits > 0 else number >> -self.bits) & _ALL

    def written(self, expression: str) -> str:
        if not self.bits:
            return expression
        return f"({expression}) {'<<' if self.bits > 0 else '>>'} {abs(self.bits)}"


def translate(target: Extension, context: Context) -> tuple[Statement, ...] | Rows:
    """Nothing happens to a packet without an entry: nft's `ct mark` breaks off there."""
    shift = _shift(target)
    if option := target.option("--set-xmark"):
        new = changed("ct mark", *split_mark(option.value)) or "ct mark"
        return () if (new, shift.bits) == ("ct mark", 0) else (Statement(f"ct mark set {shift.written(new)}"),)
    nfmask, ctmask = _mask(target, "--nfmask"), _mask(target, "--ctmask")
    if target.option("--save-mark"):
        return _copied("ct mark", "meta mark", (~ctmask & _ALL, nfmask), shift)
    return _copied("meta mark", "ct mark", (~nfmask & _ALL, ctmask), shift)


def _copied(to: str, source: str, masks: tuple[int, int], shift: _Shift) -> tuple[Statement, ...] | Rows:
    """`to = (to & kept) ^ shift(source & taken)`.

    nft 1.0.6 combines a mark with numbers only. Where bits of both stay, each bit is a rule of its own.
    """
    kept, taken = masks
    if not kept:
        new = shift.written(source if taken == _ALL else f"{source} & {taken:#x}")
        return (Statement(f"{to} set {new}"),)
    first = [(_HAS_ENTRY, Statement(f"{to} set {to} & {kept:#x}"))] if kept != _ALL else []
    bits = [(1 << n, shift.of(1 << n)) for n in range(32) if taken >> n & 1]
    rest = [
        (_HAS_ENTRY, Test(f"{source} & {bit:#x}", (f"{bit:#x}",)), Statement(f"{to} set {to} ^ {moved:#x}"))
        for bit, moved in bits
        if moved
    ]
    return Rows((*first, *rest))


def _shift(target: Extension) -> _Shift:
    if option := target.option("--left-shift-mark"):
        return _Shift(int(option.value, 0))
    option = target.option("--right-shift-mark")
    return _Shift(-int(option.value, 0) if option else 0)


def _mask(target: Extension, name: str) -> int:
    option = target.option(name)
    return _ALL if option is None else int(option.value, 0)
