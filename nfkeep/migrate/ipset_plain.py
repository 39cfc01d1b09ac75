"""Elements of ipset that are one address each, and perhaps what time it has left: read and written in bulk.

A list of bans has them by the hundred thousand, and one object for each would take most of the time of a translation.
"""

from __future__ import annotations

import re
import socket
from array import array
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.rates import duration
from nfkeep.nft.elements import ipset_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LINE = 110
"""So many characters are on a line of elements, and with a space perhaps one more."""

_FULL_LINE = re.compile(rf"\S.{{0,{LINE - 1}}},(?= )")
_KEY_BYTES = {socket.AF_INET: 4, socket.AF_INET6: 16}


@attrs.frozen(slots=True, eq=False)
class Plain:
    """All elements of a set, none twice. `keys`: the addresses as the network has them, one behind the other.

    `seconds`: of each what time it has left, 0 for those without a timeout; they get `otherwise`.
    """

    family: socket.AddressFamily
    keys: bytes = attrs.field(repr=False)
    seconds: array[int] = attrs.field(repr=False)
    otherwise: int = 0

    @property
    def key_bytes(self) -> int:
        """The length of one key."""
        return _KEY_BYTES[self.family]

    @property
    def expire(self) -> bool:
        """Whether every one does."""
        return all(self.seconds)

    def lines(self) -> list[str]:
        """The elements as nft reads them, with commas between them."""
        *texts, last = self._texts()
        lines: list[str] = _FULL_LINE.findall("".join([f"{each}, " for each in texts]))
        if lines and len(lines[-1]) + len(last) <= LINE:
            lines[-1] = f"{lines[-1]} {last}"
        else:
            lines.append(last)
        return lines

    def items(self) -> Iterator[tuple[bytes, int]]:
        """Each key, and the seconds that it has left, 0 for ever."""
        for number, seconds in enumerate(self.seconds):
            yield self.keys[number * self.key_bytes : (number + 1) * self.key_bytes], seconds

    def milliseconds(self) -> array[int]:
        """The timeouts in the order of the keys, 0 for ever."""
        return array("Q", [1000 * (each or self.otherwise) for each in self.seconds])

    def _texts(self) -> Iterator[str]:
        otherwise = f" timeout {duration(self.otherwise)}" if self.otherwise else ""
        for key, seconds in self.items():
            address = socket.inet_ntop(self.family, key)
            yield f"{address} timeout {seconds}s" if seconds else address + otherwise


def read_plain(name: str, head: Sequence[str], text: str) -> Plain | None:
    """The elements of a set of the type hash:ip, if each of these lines adds one, and says no more of it.

    `head`: the words by which the set was created. None if a line does anything else, or has an address that is written
    otherwise than ipset prints it.
    """
    if not text or not name.isascii() or not text.isascii() or {"netmask", "bitmask"} & set(head):
        return None
    family = socket.AF_INET6 if "inet6" in head else socket.AF_INET
    found = ipset_lines(text.encode(), name.encode(), _KEY_BYTES[family], timed="timeout" in head)
    return None if found is None else Plain(family, *found)
