"""Ranges of addresses and ports to translate to, as DNAT, SNAT, MASQUERADE and REDIRECT have them (libxt_NAT.c)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import Statement
from nfkeep.migrate.transport import protocol_again

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Simple
    from nfkeep.migrate.rule import Extension

FLAGS = {"--random": 0, "--random-fully": 0, "--persistent": 0}
_FLAGS = {"--random": "random", "--random-fully": "fully-random", "--persistent": "persistent"}
_MOST = 65535


@attrs.frozen(slots=True)
class Ports:
    """`first` to `last`; with `base`, the port at that distance into the range, around and around."""

    first: int
    last: int
    base: int | None = None

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def parse_ports(text: str) -> Ports:
    """`FIRST[-LAST[/BASE]]`."""
    numbers, _, base = text.partition("/")
    first, _, last = numbers.partition("-")
    ports = Ports(int(first, 0), int(last or first, 0), int(base, 0) if base else None)
    if not 0 <= ports.first <= ports.last <= _MOST or (ports.base is not None and not 0 <= ports.base <= _MOST):
        raise Lost(f"{text} is no range of ports")
    return ports


def parse_range(text: str, *, v6: bool) -> tuple[str, Ports | None]:
    """`[ADDRESS[-ADDRESS]][:PORTS]`, IPv6 with ports in brackets: the addresses as nft writes them, and the ports."""
    if text.startswith("["):
        addresses, _, rest = text[1:].partition("]")
        ports = rest[1:]
    elif v6 and text.count(":") != 1:
        addresses, ports = text, ""
    else:
        addresses, _, ports = text.partition(":")
    return _addresses(addresses, v6=v6, brackets=bool(ports)), parse_ports(ports) if ports else None


def flags(target: Extension) -> str:
    """The flags of the target as nft's, with a space before them; they are the same bits (nf_nat.h)."""
    words = [_FLAGS[option.name] for option in target.options if option.name in _FLAGS]
    return f" {','.join(dict.fromkeys(words))}" if words else ""


def to_ports(verb: str, target: Extension, context: Context) -> tuple[Simple, ...]:
    """MASQUERADE and REDIRECT: ports or none, and flags."""
    option = target.option("--to-ports")
    if option is None:
        return (Statement(f"{verb}{flags(target)}"),)
    return (*protocol_again(context), Statement(f"{verb} to :{parse_ports(option.value)}{flags(target)}"))


def _addresses(text: str, *, v6: bool, brackets: bool) -> str:
    if not text:
        return ""
    first, _, last = text.partition("-")
    kind = ipaddress.IPv6Address if v6 else ipaddress.IPv4Address
    ends = [kind(first), kind(last or first)]
    if int(ends[0]) > int(ends[1]):
        raise Lost(f"{text} ends before it begins")
    written = [f"[{end}]" if v6 and brackets else str(end) for end in dict.fromkeys(ends)]
    return "-".join(written)
