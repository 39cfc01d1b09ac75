"""What `ipset save` prints, read: sets with their types, options and elements."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import InvalidRuleError
from nfkeep.migrate.ipset_plain import read_plain
from nfkeep.xtables.text import split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nfkeep.migrate.ipset_plain import Plain

_OF_ADDRESSES = re.compile(r"create ([^\s\"'\\]+) hash:ip(?: [^\n]*)?\n")

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
    """A set. `kind` is ipset's type, as `hash:ip,port`; "" where elements were added to a set that nobody created.

    `plain` are all its elements, if they are no more than addresses with timeouts; `elements` is empty then.
    """

    name: str
    kind: str
    options: Mapping[str, str]
    elements: tuple[Element, ...]
    plain: Plain | None = None

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
    found = _read(_lines(text))
    if any(each.plain and each.elements for each in found.values()):  # it says more of them elsewhere
        found = _read(((number, line, None) for number, line in enumerate(text.splitlines(), 1)))
    return found


def _read(lines: Iterator[tuple[int, str, Plain | None]]) -> dict[str, IpSet]:
    created: dict[str, tuple[str, dict[str, str]]] = {}
    elements: dict[str, list[Element]] = {}
    plain: dict[str, Plain] = {}
    for number, line, following in lines:
        words = split(line) if line.strip() and not line.lstrip().startswith("#") else []
        if not words:
            continue
        command, rest = words[0].lstrip("-"), words[1:]
        if command in ("create", "N") and len(rest) >= 2:
            created[rest[0]] = (_kind(rest[1]), _options(rest[2:], number, line, frozenset()))
            elements.setdefault(rest[0], [])
            if following is not None:
                plain[rest[0]] = following
        elif command in ("add", "A") and len(rest) >= 2:
            options = _options(rest[2:], number, line, _KEYED)
            elements.setdefault(rest[0], []).append(Element(tuple(rest[1].split(",")), options))
        elif command not in ("COMMIT", "flush", "F"):
            raise InvalidRuleError(f"line {number} of the sets: neither create nor add", line)
    return {
        name: IpSet(name, *created.get(name, ("", {})), tuple(each), plain.get(name)) for name, each in elements.items()
    }


def _lines(text: str) -> Iterator[tuple[int, str, Plain | None]]:
    """The lines with their numbers; those behind a `create` that add plain elements come with it, and not as lines."""
    at, number = 0, 1
    begin = 0 if text.startswith("create ") else text.find("\ncreate ") + 1 or len(text)
    while begin < len(text):
        end = text.find("\ncreate ", begin) + 1 or len(text)
        head = _OF_ADDRESSES.match(text, begin)
        plain = read_plain(head[1], head[0].split(), text[head.end() : end]) if head else None
        if head and plain:
            for line in text[at:begin].splitlines():
                yield number, line, None
                number += 1
            yield number, head[0], plain
            number += 1 + text.count("\n", head.end(), end)
            at = end
        begin = end
    for line in text[at:].splitlines():
        yield number, line, None
        number += 1


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
