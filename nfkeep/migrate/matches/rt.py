"""`-m rt`: the routing header of IPv6 (ip6t_rt.c)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from nfkeep.migrate.header_length import length_test
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import Statement, Test
from nfkeep.migrate.values import header_range, number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {
    "--rt-type": 1, "--rt-segsleft": 1, "--rt-len": 1, "--rt-0-res": 0, "--rt-0-addrs": 1, "--rt-0-not-strict": 0,
}  # fmt: skip
_MOST = 255
_NAMED = 2  # any other index crashes nft (exthdr_rt0 in its src/exthdr.c)
_MOST_GIVEN = 0xFFFFFFFF  # --rt-segsleft takes 32 bits, the header has 8

# The 32 reserved bits of a header of type 0 are where one of type 4 has these.
_RESERVED = (Test("srh last-entry", ("0",)), Test("srh flags", ("0",)), Test("srh tag", ("0",)))


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option; without any the header has to be there only."""
    if match.option("--rt-0-not-strict"):
        raise Lost(
            "nft cannot look for addresses at any place of a routing header", "drop headers of type 0 altogether"
        )
    return tuple(part for each in match.options for part in _part(each)) or (Statement("exthdr rt exists"),)


def _part(option: Option) -> tuple[Part, ...]:
    if option.name == "--rt-len":
        return length_test("rt", option)
    if option.name == "--rt-0-res":
        return _RESERVED
    if option.name == "--rt-0-addrs":
        return _addresses(option.value)
    if option.name == "--rt-type":
        return header_range("rt type", *number_range(option.value, _MOST), _MOST, negated=option.negated)
    low, high = number_range(option.value, _MOST_GIVEN)
    if low > _MOST:
        low, high = 1, 0
    return header_range("rt seg-left", low, min(high, _MOST), _MOST, negated=option.negated)


def _addresses(listed: str) -> tuple[Part, ...]:
    """These addresses, in this order, and no others: the length says how many there are."""
    addresses = [ipaddress.IPv6Address(each) for each in listed.split(",")]
    count = len(addresses)
    if count > _NAMED:
        raise Lost(
            f"nft 1.0.6 knows the first {_NAMED} addresses of a header only", "drop headers of type 0 altogether"
        )
    length = Test("rt hdrlength", (f"{2 * count}-{2 * count + 1}",))
    return (length, *(Test(f"rt0 addr[{n}]", (str(each),)) for n, each in enumerate(addresses, 1)))
