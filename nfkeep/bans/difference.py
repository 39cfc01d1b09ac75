"""What to change of a list so that it is as somebody wants it, and no more. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from nfkeep.bans.given import GivenBan, ends_otherwise
from nfkeep.bans.values import Element, Kind


@attrs.frozen(slots=True)
class Wanted:
    """A ban that is to be there, as it was given. `timeout_ms`: None where none was given, so that any will do."""

    given: GivenBan
    timeout_ms: int | None


@attrs.frozen(slots=True)
class Difference:
    """Keys to take out, by kind, and bans to renew and to add."""

    gone: dict[Kind, bytes]
    renew: list[GivenBan]
    add: list[GivenBan]


def difference(wanted: dict[tuple[Kind, bytes], Wanted], there: Iterable[tuple[Kind, Element]]) -> Difference:
    """What makes `there` as `wanted`: with a timeout that ends within a second of the one that is there, it stays."""
    missing = dict(wanted)
    gone: dict[Kind, list[bytes]] = {}
    renew = []
    for kind, element in there:
        found = missing.pop((kind, element.key), None)
        if found is None:
            gone.setdefault(kind, []).append(element.key)
        elif found.timeout_ms is not None and ends_otherwise(element, found.timeout_ms):
            renew.append(found.given)
    keys = {kind: b"".join(some) for kind, some in gone.items()}
    return Difference(keys, renew, [each.given for each in missing.values()])


def networks_around(kind: Kind, key: bytes, networks: Iterable[Element]) -> list[Element]:
    """Those of `networks`, of the same family, that the host or network lies in; it is none of them itself."""
    half = 16 if kind & 1 else 4
    host = int.from_bytes(key[:half], "big")
    mask = int.from_bytes(key[half:] or b"\xff" * half, "big")
    found = []
    for element in networks:
        address, other = int.from_bytes(element.key[:half], "big"), int.from_bytes(element.key[half:], "big")
        if other & mask == other and host & other == address and element.key != key:
            found.append(element)
    return found
