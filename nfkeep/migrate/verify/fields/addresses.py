"""Addresses and interfaces: -s, -d, iprange, addrtype, -i, -o."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from nfkeep.migrate.verify.fields.choices import Choices, generates
from nfkeep.model import Family, Hook

if TYPE_CHECKING:
    from nfkeep.migrate.verify.fields.choices import Setting
    from nfkeep.migrate.verify.words import Word

_FIELDS = {"-s": "source", "-d": "destination", "--src-range": "source", "--dst-range": "destination"}
ELSEWHERE = {Family.IPV4: ("192.0.2.77", "203.0.113.77"), Family.IPV6: ("2001:db8:a::77", "2001:db8:b::77")}


@generates("-s", "-d")
def network(word: Word, setting: Setting) -> Choices:
    """The first, the last and a middle address of a network, and those beside it."""
    field = _FIELDS[word.name]
    inside: list[int] = []
    outside: list[int] = []
    most = (1 << (32 if setting.family is Family.IPV4 else 128)) - 1
    for text in word.value.split(","):
        address, _, mask = text.partition("/")
        first = int(ipaddress.ip_address(address))
        given = (most >> int(mask) if int(mask) else most) ^ most if mask.isdigit() else None
        bits = given if given is not None else int(ipaddress.ip_address(mask)) if mask else most
        if mask == "0":
            bits = 0
        first &= bits
        last = first | (bits ^ most)
        # Bits of a mask with gaps: turn the lowest one that is looked at.
        beside = [first ^ (bits & -bits)] if bits else []
        inside += [first | (1 if last - first > 1 else 0), last - (1 if last - first > 2 else 0), first, last]
        outside += [first - 1, last + 1, *beside, first ^ (1 << (most.bit_length() - 2))] if bits else []
    return _addresses(field, inside, outside, setting)


@generates("--src-range", "--dst-range")
def span(word: Word, setting: Setting) -> Choices:
    """The ends of a range, its middle, and those beside it."""
    first, _, last = word.value.partition("-")
    low, high = (int(ipaddress.ip_address(text)) for text in (first, last or first))
    return _addresses(_FIELDS[word.name], [low, high, (low + high) // 2], [low - 1, high + 1], setting)


def _addresses(field: str, inside: list[int], outside: list[int], setting: Setting) -> Choices:
    far = ELSEWHERE[setting.family][field == "destination"]
    make = ipaddress.IPv4Address if setting.family is Family.IPV4 else ipaddress.IPv6Address
    most = (1 << (32 if setting.family is Family.IPV4 else 128)) - 1

    def usable(values: list[int]) -> tuple[dict[str, object], ...]:
        found = [make(value) for value in dict.fromkeys(values) if 0 <= value <= most]
        # The kernel drops some sources and destinations by itself; those come last.
        found.sort(key=lambda each: each.is_unspecified or each.is_multicast or each.is_reserved or each.is_loopback)
        return tuple({field: str(each)} for each in found)

    return Choices(usable(inside), ({field: far}, *usable(outside)) if outside else ())


@generates("-i", "-o")
def interface(word: Word, setting: Setting) -> Choices:
    """The named interface, or two that the wildcard means, and others: a longer name, a shorter one."""
    field = "enters" if word.name == "-i" else "leaves"
    name = word.value
    if field == "leaves" and setting.hook in (Hook.PREROUTING, Hook.INPUT):
        return Choices()
    others = [f"{name.rstrip('+')[:14]}7", name.rstrip("+")[:-1], "other0"]
    if name.endswith("+"):
        stem = name[:-1]
        inside = [f"{stem[:13]}9", f"{stem[:12]}0x"] + ([stem] if stem else [])
        others = [f"z{stem}"[:15], stem[:-1], "other0"] if stem else []
    else:
        inside = [name]
    wrong = {".", "..", "lo", *inside}
    return Choices(
        tuple({field: each} for each in inside if _possible(each)),
        tuple({field: each} for each in others if _possible(each) and each not in wrong),
    )


def _possible(name: str) -> bool:
    """Whether an interface can have this name: dev_valid_name() of net/core/dev.c; % makes the kernel count."""
    return 0 < len(name) < 16 and not any(each in "/:%" or each.isspace() for each in name)


@generates("-m", match="rpfilter")
def reverse_path(word: Word, setting: Setting) -> Choices:
    """A source that is routed back to where it comes from, and to elsewhere; the host's own; none."""
    own = "198.18.0.1" if setting.family is Family.IPV4 else "2001:db8:18::1"
    nobody = "0.0.0.0" if setting.family is Family.IPV4 else "::"
    rows: list[dict[str, object]] = [{"back": "out0"}, {"source": own}, {"source": nobody}, {"enters": "lo"}]
    found = Choices(({"back": None}, {"back": None, "leaves": "in0"}), (*rows, {"back": "in0", "enters": "out0"}))
    return found.negated() if any(each.name == "--invert" for each in setting.conditions) else found


_TYPES = {
    Family.IPV4: {
        "LOCAL": ("198.18.0.1", "127.0.0.1"),
        "UNICAST": ("192.0.2.77", "10.1.2.3"),
        "BROADCAST": ("255.255.255.255",),
        "MULTICAST": ("224.0.0.1", "239.1.2.3"),
    },
    Family.IPV6: {
        "LOCAL": ("2001:db8:18::1", "::1"),
        "UNICAST": ("2001:db8:a::77",),
        "ANYCAST": ("2001:db8:18::",),
        "MULTICAST": ("ff02::1", "ff05::2"),
    },
}


@generates("--src-type", "--dst-type")
def kind(word: Word, setting: Setting) -> Choices:
    """Addresses of each type."""
    field = "source" if word.name == "--src-type" else "destination"
    wanted = set(word.value.split(","))
    types = _TYPES[setting.family]
    holds = [{field: each} for name in types if name in wanted for each in types[name]]
    fails = [{field: each} for name in types if name not in wanted for each in types[name]]
    return Choices(tuple(holds), tuple(fails))
