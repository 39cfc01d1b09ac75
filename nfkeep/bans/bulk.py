"""Addresses by the thousand, as callers give them, turned into keys by kind; what cannot be has its error instead.

Text is parsed in C, all lines in one call: one at a time it would cost more than the kernel takes for the bans.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from nfkeep.bans.given import Given, GivenBan, read_item
from nfkeep.bans.guards import Guarded, refusal
from nfkeep.bans.values import Kind
from nfkeep.errors import NfkeepError
from nfkeep.nft.addresses import Guards, sort


def with_timeouts(
    chunk: list[GivenBan],
    default_ms: int,
    milliseconds: Callable[[float | None], int],
    refused: list[tuple[object, NfkeepError]],
) -> tuple[list[Given], array[int] | None]:
    """The addresses, and the timeout of each in ms; None if all of them have the default one."""
    if all(type(item) is str for item in chunk):
        return cast("list[Given]", chunk), None
    givens: list[Given] = []
    timeouts = array("Q")
    for item in chunk:
        given: object = item
        try:
            given, own, timed = read_item(item)
            timeouts.append(milliseconds(own) if timed else default_ms)
            givens.append(given)
        except NfkeepError as error:
            refused.append((given, error))
    return givens, timeouts


def by_kind(
    givens: Sequence[Given],
    guards: Guards,
    guarded: Guarded | None,
    refused: list[tuple[object, NfkeepError]],
) -> Iterator[tuple[Kind, bytes, array[int]]]:
    """Keys by kind, none twice, and of each the position in `givens` that it came from: the last one counts."""
    try:
        text = "\n".join(cast("Sequence[str]", givens))
    except TypeError:  # not all of them are
        text = "\n".join(map(str, givens))
    found = sort(text.encode("utf-8", "replace"), len(givens), guards)
    if found.lines != len(givens):  # a line break inside an address
        text = "\n".join(str(each).replace("\n", "\0") for each in givens)
        found = sort(text.encode("utf-8", "replace"), len(givens), guards)
    for position, reason in found.refused:
        refused.append((givens[position], refusal(givens[position], reason, guarded)))
    for kind in Kind:
        if len(found.keys[kind]):
            yield kind, bytes(found.keys[kind]), found.positions[kind]
