"""What a rule consists of on the nft side, as values that can be compared, and their text.

A rule is a sequence of parts, which a packet has to get through one after the other, as with iptables. Each is a
`Test`, a `Statement` (an act, or a stateful condition such as a limit, which breaks off where it does not hold), or a
choice: `AnyOf`, `NoneOf` several ways. Choices are laid out as sets or chains of their own by `nfkeep.migrate.layout`.
"""

from __future__ import annotations

from typing import TypeAlias

from nfkeep.plenty import plenty

_BITS = "ct state"
"""One bit of it is set, always; a test of several is one operation then. Thousands of sets would load very slowly."""


@plenty(slots=True)
class Test:
    """`left` is one of `values`, or with `negated` none of them.

    Values are nft text: a number, a range, a prefix, an interface in quotes. An nft expression that finds nothing to
    look at (no such header, no conntrack entry) breaks the rule off, negated or not; where iptables would go on, use
    NoneOf.
    """

    left: str
    values: tuple[str, ...]
    negated: bool = False

    def __str__(self) -> str:
        if self.left == _BITS and len(self.values) > 1:
            return f"{_BITS} & ({'|'.join(self.values)}) == 0" if self.negated else f"{_BITS} {','.join(self.values)}"
        right = self.values[0] if len(self.values) == 1 else f"{{ {', '.join(self.values)} }}"
        operator = "!= " if self.negated else "== " if "&" in self.left else ""
        return f"{self.left} {operator}{right}"


@plenty(slots=True)
class Statement:
    """Anything else, as nft text: `limit rate 5/second`, `log prefix "x"`, `meta mark set 1`."""

    text: str

    def __str__(self) -> str:
        return self.text


Simple: TypeAlias = "Test | Statement"


@plenty(slots=True)
class AnyOf:
    """At least one of these ways is open; each is a sequence that has to hold whole. No way at all: never.

    `otherwise` is a verdict, as "drop", for packets that find no way: then the rule does not just not match, as when a
    match of iptables drops the packet by itself (`hotdrop`).
    """

    ways: tuple[tuple[Simple, ...], ...]
    otherwise: str = ""


@plenty(slots=True)
class NoneOf:
    """No one of these ways is open: the exact opposite of AnyOf."""

    ways: tuple[tuple[Simple, ...], ...]


Part: TypeAlias = "Test | Statement | AnyOf | NoneOf"


@plenty(slots=True)
class Rows:
    """What a target does in several rules, one after the other; each begins anew with the packet.

    A row may end with Rows of its own: a packet that gets so far goes there, and not on to the following rows.
    """

    rows: tuple[tuple[Simple | Rows, ...], ...]


NEVER = AnyOf(())
"""The rule can match no packet."""
