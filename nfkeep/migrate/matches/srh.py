"""`-m srh`: the segment routing header of IPv6 (srh1_mt6() in ip6t_srh.c)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.octets import MOST, octet_range, octet_tests
from nfkeep.migrate.parts import Test
from nfkeep.migrate.values import address_test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

_FIELDS = {
    "--srh-next-hdr": "rt nexthdr",
    **{f"--srh-hdr-len-{compare}": "rt hdrlength" for compare in ("eq", "gt", "lt")},
    **{f"--srh-segs-left-{compare}": "rt seg-left" for compare in ("eq", "gt", "lt")},
    **{f"--srh-last-entry-{compare}": "srh last-entry" for compare in ("eq", "gt", "lt")},
}
_CONSISTENT = "segments-left"
_ON_A_LINE = 8
OPTIONS = {**dict.fromkeys(_FIELDS, 1), "--srh-tag": 1, "--srh-psid": 1, "--srh-nsid": 1, "--srh-lsid": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option, in a header of type 4 whose segments left are not beyond its last one."""
    parts = tuple(part for option in match.options for part in _part(option))
    return (Test("rt type", ("4",)), _consistent(match, context), *parts)


def _consistent(match: Extension, context: Context) -> Test:
    """That segments left is at most the last entry.

    nft compares fields with numbers only: either one is given, or a set lists what goes together.
    """
    left, last = match.option("--srh-segs-left-eq"), match.option("--srh-last-entry-eq")
    if left and not left.negated:
        return Test("srh last-entry", (f"{octet_range(left)[0]}-{MOST}",))
    if last and not last.negated:
        return Test("rt seg-left", (f"0-{octet_range(last)[0]}",))
    pairs = [f"{number} . {number}-{MOST}," for number in range(MOST)] + [f"{MOST} . {MOST}"]
    elements = (" ".join(pairs[n : n + _ON_A_LINE]) for n in range(0, len(pairs), _ON_A_LINE))
    body = ("typeof rt seg-left . srh last-entry", "flags interval", "elements = {", *elements, "}")
    return Test("rt seg-left . srh last-entry", (f"@{context.objects.declare('set', _CONSISTENT, body)}",))


def _part(option: Option) -> tuple[Part, ...]:
    if option.name == "--srh-next-hdr":
        return (Test("rt nexthdr", (str(_octet(option.value)),), option.negated),)
    if field := _FIELDS.get(option.name):
        return octet_tests(field, option)
    if option.name == "--srh-tag":
        return (Test("srh tag", (str(_tag(option.value)),), option.negated),)
    if option.name == "--srh-lsid":
        return address_test("srh sid[1]", option.value, v6=True, negated=option.negated)
    raise Lost("nft cannot look at the segment that another field tells", "match --srh-lsid, or numbers of segments")


def _octet(text: str) -> int:
    number = int(text, 0)
    if not 0 <= number <= MOST:
        raise ValueError(f"{number} is no octet")
    return number


def _tag(text: str) -> int:
    """The tag as it stands in the packet. The kernel compares it without regard to its own order of bytes."""
    number = int(text, 0)
    if not 0 <= number <= 0xFFFF:
        raise ValueError(f"{number} is no tag")
    return int.from_bytes(number.to_bytes(2, sys.byteorder), "big")
