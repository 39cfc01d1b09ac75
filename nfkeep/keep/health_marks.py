"""Which bits of the packet mark are in use, and the choice of one that is not. Pure.

A mask of most bits means the others: `--set-mark 7` is about three bits though it writes all, `--and-mark 4` about one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from nfkeep.keep.observe import Observation
from nfkeep.xtables.stateful import extensions
from nfkeep.xtables.text import split

_ALL = 0xFFFFFFFF
_HALF = 16
_EXTENSIONS = frozenset({"mark", "MARK", "connmark", "CONNMARK", "TPROXY", "socket", "HMARK"})
_OPTIONS = frozenset({"--set-xmark", "--mark", "--tproxy-mark", "--nfmask", "--ctmask"})
_NUMBER = re.compile(r"0x[0-9a-f]+|\b\d+\b")
_MARK = re.compile(r"\b(?:fw)?mark\b")


def used_by_rules(tables: Iterable[Observation]) -> int:
    """The bits that rules of legacy tables test or write."""
    used = 0
    for table in tables:
        for found in table.found:
            if any(each.name in _EXTENSIONS for each in extensions(found.entry)):
                words = split(str(found.rule))
                for option, value in itertools.pairwise(words):
                    if option in _OPTIONS:
                        used |= _bits(value)
    return used


def used_in_listing(text: str) -> int:
    """The bits in any line about a mark, as `ip rule` and `nft list ruleset` print them."""
    used = 0
    for line in text.splitlines():
        if (mark := _MARK.search(line)) is not None:
            for number in _NUMBER.findall(line[mark.start() :]):
                used |= _bits(number)
    return used


def free_bits(used: int) -> list[int]:
    """The bits that are left, the highest first, where the fewest programs look for theirs."""
    return [1 << place for place in range(30, -1, -1) if not used & 1 << place]


def _bits(word: str) -> int:
    """Of `VALUE/MASK`, or of a value, or of a mask."""
    try:
        value, *mask = (int(number, 0) & _ALL for number in word.split("/"))
    except ValueError:
        return 0
    return _narrow(mask[0]) | (value & mask[0]) if mask else _narrow(value)


def _narrow(mask: int) -> int:
    return mask if mask.bit_count() <= _HALF else ~mask & _ALL
