"""Elements of ipset that are one address each, and perhaps what time it has left: read and written in bulk.

A list of bans has them by the hundred thousand, and one object for each would take most of the time of a translation.
"""

from __future__ import annotations

import functools
import re
import socket
from array import array
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.rates import duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LINE = 110
"""So many characters are on a line of elements, and with a space perhaps one more."""

_FULL_LINE = re.compile(rf"\S.{{0,{LINE - 1}}},(?= )")
_FAMILIES = {"inet": (socket.AF_INET, "0.0.0.0"), "inet6": (socket.AF_INET6, "::")}
_WHOLE = re.compile(r"[0-9\n]*")
_MOST_SECONDS = 10**8 - 1
"""More than that is written otherwise in nft."""


@attrs.frozen(slots=True, eq=False)
class Plain:
    """All elements of a set, none twice. `timeouts`: by address, in seconds; 0 for those without.

    `keys`: the addresses as the network has them, in that order. `otherwise`: seconds for those without a timeout.
    """

    timeouts: Mapping[str, int]
    keys: bytes = attrs.field(repr=False)
    otherwise: int = 0

    @property
    def expire(self) -> bool:
        """Whether every one does."""
        return all(self.timeouts.values())

    def lines(self) -> list[str]:
        """The elements as nft reads them, with commas between them."""
        *texts, last = self._texts()
        lines: list[str] = _FULL_LINE.findall("".join([f"{each}, " for each in texts]))
        if lines and len(lines[-1]) + len(last) <= LINE:
            lines[-1] = f"{lines[-1]} {last}"
        else:
            lines.append(last)
        return lines

    def milliseconds(self) -> array[int]:
        """The timeouts in the order of the keys, 0 for ever."""
        return array("Q", [1000 * (each or self.otherwise) for each in self.timeouts.values()])

    def _texts(self) -> Iterator[str]:
        otherwise = f" timeout {duration(self.otherwise)}" if self.otherwise else ""
        for address, timeout in self.timeouts.items():
            yield f"{address} timeout {timeout}s" if timeout else address + otherwise


def read_plain(name: str, head: Sequence[str], text: str) -> Plain | None:
    """The elements of a set of the type hash:ip, if each of these lines adds one, and says no more of it.

    `head`: the words by which the set was created. None if a line does anything else, or has an address that is written
    otherwise than ipset prints it.
    """
    begin, number = f"add {name} ", text.count("\n")
    if not number or {"netmask", "bitmask"} & set(head) or f"\n{text}".count(f"\n{begin}") != number:
        return None
    timed = "timeout" in head
    words = f"\n{text}".replace(f"\n{begin}", "\n").replace(" timeout ", "\n" if timed else " ").split("\n")[1:-1]
    addresses, seconds = (words[::2], words[1::2]) if timed else (words, ["0"] * number)
    if len(addresses) != number or not _WHOLE.fullmatch("\n".join(seconds)):
        return None
    keys = _keys(addresses, "inet6" if "inet6" in head else "inet")
    timeouts = dict(zip(addresses, map(int, seconds), strict=True))
    if keys is None or len(timeouts) != number or max(timeouts.values()) > _MOST_SECONDS:
        return None
    return Plain(timeouts, keys)


def _keys(addresses: Sequence[str], family: str) -> bytes | None:
    """The addresses as the network has them; None if one is not as ipset prints it."""
    number, nobody = _FAMILIES[family]
    try:
        keys = list(map(functools.partial(socket.inet_pton, number), addresses))
    except OSError:
        return None
    if number == socket.AF_INET6:  # of IPv4 there is one way only
        texts = map(functools.partial(socket.inet_ntop, number), keys)
        if any(text != address for text, address in zip(texts, addresses, strict=True)):
            return None
    return None if nobody in addresses else b"".join(keys)
