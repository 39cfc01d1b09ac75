"""Addresses as callers give them: what the C parser takes is what Python's ipaddress takes, and means the same."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfkeep import InvalidAddressError
from nfkeep.bans.bulk import by_kind
from nfkeep.bans.given import read_address
from nfkeep.bans.guards import NO_GUARDS
from nfkeep.bans.values import Address, Kind, address_of
from nfkeep.nft.addresses import COVERS_GUARD, IN_GUARD, Guards, parse

if TYPE_CHECKING:
    from nfkeep.errors import NfkeepError

TAKEN = {
    "203.0.113.9": (Kind.HOST4, "203.0.113.9"),
    "203.0.113.9/32": (Kind.HOST4, "203.0.113.9"),
    "203.0.113.0/24": (Kind.NET4, "203.0.113.0/24"),
    "0.0.0.0/0": (Kind.NET4, "0.0.0.0/0"),
    "2001:DB8::1": (Kind.HOST6, "2001:db8::1"),
    "2001:db8::/64": (Kind.NET6, "2001:db8::/64"),
    "2001:db8::1/128": (Kind.HOST6, "2001:db8::1"),
    "::/0": (Kind.NET6, "::/0"),
    "::ffff:203.0.113.9": (Kind.HOST4, "203.0.113.9"),
    "::ffff:cb00:7109": (Kind.HOST4, "203.0.113.9"),
    "::ffff:203.0.113.0/120": (Kind.NET4, "203.0.113.0/24"),
    "::ffff:0:0/96": (Kind.NET4, "0.0.0.0/0"),
    "::ffff:0:0/95": None,
    "::fffe:0:0/95": (Kind.NET6, "::fffe:0:0/95"),
    "64:ff9b::203.0.113.9": (Kind.HOST6, "64:ff9b::cb00:7109"),
}
REFUSED = [
    "", " ", "/", "/24", "203.0.113", "203.0.113.9.1", "203.0.113.256", "0203.0.113.9", "203.0.113.09", "0xcb007109",
    "3405803785", "203.0.113.9/", "203.0.113.9/33", "203.0.113.9/024", "203.0.113.9/-1", "203.0.113.9/+8",
    "203.0.113.9/8",
    "203.0.113.0/24/24", "203.0.113.0/255.255.255.0", " 203.0.113.9", "203.0.113.9 ", "203.0.113.9\n", "203.0.113.9\0",
    "203.0.113.9\0.example", "203.0.113.9,203.0.113.10", "203.0.113.9; drop", "203.0.113.9 }", "@set", "$(id)", "`id`",
    "fe80::1%eth0", "2001:db8::1/129", "2001:db8::/63/", "2001:db8:::1", "12345::", "1:2:3:4:5:6:7:8:9", ":", "::1::",
    "2001:db8::1/64", "[2001:db8::1]", "203.0.113.9:22", "localhost", "٢٠٣.0.113.9", "1" * 100, ":" * 100,
    "a" * 100_000,
    "203.0.113.9" + " " * 50, "\x80", "\udcff",
]  # fmt: skip


@pytest.mark.parametrize("text", TAKEN)
def test_taken(text: str) -> None:
    """Kind and address of what is an address; one that is IPv4 on the wire is IPv4."""
    expected = TAKEN[text]
    if expected is None:
        with pytest.raises(InvalidAddressError):
            read_address(text)
        return
    kind, key = read_address(text)
    assert (kind, str(address_of(kind, key))) == expected
    assert len(key) == kind.key_bytes


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text)[:40])
def test_refused(text: str) -> None:
    """What is none is refused by itself and among others, and the error has it as it was given."""
    with pytest.raises(InvalidAddressError) as raised:
        read_address(text)
    assert raised.value.address == text
    assert len(str(raised.value)) < 300
    refused: list[tuple[object, NfkeepError]] = []
    found = list(by_kind(["203.0.113.1", text, "203.0.113.2"], NO_GUARDS, None, refused))
    assert [(kind, positions.tolist()) for kind, _, positions in found] == [(Kind.HOST4, [0, 2])]
    assert [address for address, _ in refused] == [text]


def expected(text: str) -> Address | None:
    """What Python's ipaddress makes of it; IPv4 in IPv6 is IPv4."""
    if "%" in text or ("/" in text and not text.rpartition("/")[2].isdecimal()):
        return None
    prefix = text.rpartition("/")[2] if "/" in text else "0"
    if len(prefix) > 1 and prefix.startswith("0"):
        return None
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
        network = ipaddress.IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network if network.prefixlen < network.max_prefixlen else network.network_address


texts = st.one_of(
    st.ip_addresses().map(str),
    st.tuples(st.ip_addresses(), st.integers(0, 130)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(
        lambda p: str(ipaddress.ip_network(f"{p[0]}/{p[1]}", False))
    ),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(
        lambda p: str(ipaddress.ip_network(f"{p[0]}/{p[1]}", False))
    ),
    st.ip_addresses(v=4).map(lambda each: f"::ffff:{each}"),
    st.text("0123456789abcdef:./%", max_size=60),
    st.text(max_size=60),
)


@settings(max_examples=2000, deadline=None)
@given(st.lists(texts, max_size=20))
def test_as_ipaddress(given: list[str]) -> None:
    """One at a time and many at once agree with each other and with ipaddress."""
    refused: list[tuple[object, NfkeepError]] = []
    bulk: dict[int, Address] = {}
    for kind, keys, positions in by_kind(given, NO_GUARDS, None, refused):
        size = kind.key_bytes
        for number, position in enumerate(positions):
            bulk[position] = address_of(kind, keys[number * size : (number + 1) * size])
    for position, text in enumerate(given):
        try:
            single = address_of(*read_address(text))
        except InvalidAddressError:
            single = None
        assert single == expected(text), text
        if single is None:
            assert any(address is text for address, _ in refused)
        elif position not in bulk:  # the same address comes again later
            assert single in bulk.values()
        else:
            assert bulk[position] == single


near = st.one_of(  # each other
    st.integers(0, 7).map(lambda number: ipaddress.IPv4Address(number << 29)),
    st.integers(0, 7).map(lambda number: ipaddress.IPv6Address(number << 61)),
)


@settings(max_examples=1000, deadline=None)
@given(
    st.tuples(near, st.integers(0, 70)),
    st.tuples(near, st.integers(0, 70)),
    st.booleans(),
)
def test_guards(one: tuple[Address, int], other: tuple[Address, int], covered: bool) -> None:
    """A guard refuses what lies in it, or what it lies in, and nothing else."""
    asked, guard = (
        ipaddress.ip_network(f"{address}/{min(bits, address.max_prefixlen)}", strict=False)
        for address, bits in (one, other)
    )
    if isinstance(asked, ipaddress.IPv6Network) and asked.prefixlen >= 96 and asked.network_address.ipv4_mapped:
        return
    made = Guards([(int(guard.version == 6), guard.prefixlen, guard.network_address.packed, covered)])
    kind, _ = parse(str(asked).encode(), made)
    inner, outer = (guard, asked) if covered else (asked, guard)
    against = inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # of one version
    assert kind == (-(COVERS_GUARD if covered else IN_GUARD) if against else kind)
    assert (kind < 0) == against
