"""What `ipset save` prints, read: sets with their types, options and elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import InvalidRuleError
from nfkeep.xtables.text import split

if TYPE_CHECKING:
    from collections.abc import Mapping

_FLAGS = frozenset({"nomatch", "counters", "comment", "skbinfo", "forceadd", "wildcard", "-exist", "-!", "noprefixlen"})
_KEYED = frozenset({"comment"})
"""What is a flag of a set, but has a value with an element."""


@attrs.frozen(slots=True)
class Element:
    """One `add` line: its parts between commas, and its options (with "" for flags)."""

    parts: tuple[str, ...]
    options: Mapping[str, str]

    @property
    def timeout(self) -> int:
        """The seconds that are left of it, 0 for ever."""
        return int(self.options.get("timeout", "0"))

    @property
    def nomatch(self) -> bool:
        """Whether it is an exception."""
        return "nomatch" in self.options


@attrs.frozen(slots=True)
class IpSet:
    """A set. `kind` is ipset's type, as `hash:ip,port`; "" where elements were added to a set that nobody created."""

    name: str
    kind: str
    options: Mapping[str, str]
    elements: tuple[Element, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """What an element consists of: ip, net, port, mac, mark, iface, set."""
        return tuple(self.kind.partition(":")[2].split(","))

    @property
    def v6(self) -> bool:
        """Whether its addresses are of IPv6."""
        return self.options.get("family") == "inet6"

    @property
    def has_addresses(self) -> bool:
        """Whether it belongs to a family at all."""
        return bool({"ip", "net"} & set(self.fields))

    @property
    def has_timeouts(self) -> bool:
        """Whether its elements may expire."""
        return "timeout" in self.options

    @property
    def members(self) -> tuple[str, ...]:
        """The sets in a list of sets."""
        return tuple(element.parts[0] for element in self.elements) if self.kind == "list:set" else ()


def read_ipsets(text: str) -> dict[str, IpSet]:
    """The sets by name. Raises InvalidRuleError, which names the line, for what is no such text."""
    created: dict[str, tuple[str, dict[str, str]]] = {}
    elements: dict[str, list[Element]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = split(line) if line.strip() and not line.lstrip().startswith("#") else []
        if not words:
            continue
        command, rest = words[0].lstrip("-"), words[1:]
        if command in ("create", "N") and len(rest) >= 2:
            created[rest[0]] = (_kind(rest[1]), _options(rest[2:], number, line, frozenset()))
            elements.setdefault(rest[0], [])
        elif command in ("add", "A") and len(rest) >= 2:
            options = _options(rest[2:], number, line, _KEYED)
            elements.setdefault(rest[0], []).append(Element(tuple(rest[1].split(",")), options))
        elif command not in ("COMMIT", "flush", "F"):
            raise InvalidRuleError(f"line {number} of the sets: neither create nor add", line)
    return {name: IpSet(name, *created.get(name, ("", {})), tuple(each)) for name, each in elements.items()}


def _kind(word: str) -> str:
    """The type that a name of old stands for."""
    old = {"iphash": "hash:ip", "nethash": "hash:net", "ipporthash": "hash:ip,port", "ipmap": "bitmap:ip"}
    return {**old, "macipmap": "bitmap:ip,mac", "portmap": "bitmap:port", "setlist": "list:set"}.get(word, word)


def _options(words: list[str], number: int, line: str, keyed: frozenset[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    following = iter(words)
    for word in following:
        if word in _FLAGS - keyed:
            options[word] = ""
            continue
        value = next(following, None)
        if value is None:
            raise InvalidRuleError(f"line {number} of the sets: {word!r} has no value", line)
        options[word] = value
    return options
