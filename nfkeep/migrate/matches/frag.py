"""`-m frag`: the fragment header of IPv6 (ip6t_frag.c, which does not look at what --fraglen says)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Statement, Test
from nfkeep.migrate.values import header_range, number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {"--fragid": 1, "--fraglen": 1, "--fragres": 0, "--fragfirst": 0, "--fragmore": 0, "--fraglast": 0}
_MOST = 0xFFFFFFFF
_FLAGS = {
    "--fraglen": (),
    "--fragres": (Test("frag reserved", ("0",)), Test("frag reserved2", ("0",))),
    "--fragfirst": (Test("frag frag-off", ("0",)),),
    "--fragmore": (Test("frag more-fragments", ("1",)),),
    "--fraglast": (Test("frag more-fragments", ("0",)),),
}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option; without any the header has to be there only."""
    return tuple(part for each in match.options for part in _part(each)) or (Statement("exthdr frag exists"),)


def _part(option: Option) -> tuple[Part, ...]:
    if option.name == "--fragid":
        return header_range("frag id", *number_range(option.value, _MOST), _MOST, negated=option.negated)
    return _FLAGS[option.name]
