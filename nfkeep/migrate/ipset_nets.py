"""Networks of ipset that lie within each other, as ranges that do not: nft's interval sets have no other ones.

The kernel tries the longest prefixes first, and the first element that it finds decides (mtype_test_cidrs() in
ip_set_hash_gen.h): a `nomatch` is an exception from what is around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nfkeep.migrate.ipsets import Element

Range = tuple[int, int]


@attrs.frozen(slots=True)
class Network:
    """One element, as the range of its addresses in one dimension, and the lengths of its prefixes in all.

    `inner` is the same element in the next dimension.
    """

    first: int
    last: int
    lengths: tuple[int, ...]
    element: Element
    inner: Network | None = None


@attrs.frozen(slots=True)
class Piece:
    """A range that no other piece has a part of. `element` is the one that it is, None if it is only a part of some."""

    first: int
    last: int
    timeout: int
    element: Element | None


def pieces(networks: Sequence[Network], *, nomatch: bool = False) -> list[Piece]:
    """The ranges in which an address matches; with `nomatch` those in which an exception decides.

    Raises Lost where exceptions and timeouts change the outcome in the course of time.
    """
    found: list[Piece] = []
    for covering, first, last in segments(networks):
        outcome = _outcome(covering, nomatch)
        if outcome is None:
            continue
        alone = len(covering) == 1 and (covering[0].first, covering[0].last) == (first, last)
        piece = Piece(first, last, outcome, covering[0].element if alone else None)
        before = found[-1] if found else None
        if (
            before
            and before.element is piece.element is None
            and before.last + 1 == first
            and before.timeout == outcome
        ):
            found[-1] = Piece(before.first, last, outcome, None)
        else:
            found.append(piece)
    return found


def segments(networks: Sequence[Network]) -> Iterator[tuple[tuple[Network, ...], int, int]]:
    """Each range in which the same networks apply, and these. Prefixes are within each other or apart."""
    around: list[Network] = []
    at = 0
    for network in sorted(networks, key=lambda each: (each.first, -each.last)):
        while around and around[-1].last < network.first:
            yield from _segment(around, at, around[-1].last)
            at = around.pop().last + 1
        if around:
            yield from _segment(around, at, network.first - 1)
        at = network.first
        around.append(network)
    while around:
        yield from _segment(around, at, around[-1].last)
        at = around.pop().last + 1


def _segment(around: Sequence[Network], first: int, last: int) -> Iterator[tuple[tuple[Network, ...], int, int]]:
    if first <= last:
        yield tuple(around), first, last


def _outcome(covering: Sequence[Network], nomatch: bool) -> int | None:
    """How long these networks match (0: for ever), None if they do not."""
    elements = [each.element for each in sorted(covering, key=lambda each: each.lengths, reverse=True)]
    exceptions = [each for each in elements if each.nomatch]
    if exceptions and len(exceptions) < len(elements) and any(each.timeout for each in elements):
        raise Lost("exceptions (nomatch) within networks that expire, or that do so themselves, change with time")
    if elements[0].nomatch != nomatch:
        return None
    timeouts = [each.timeout for each in elements]
    return 0 if 0 in timeouts else max(timeouts)
