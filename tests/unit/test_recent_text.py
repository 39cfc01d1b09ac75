"""What the kernel writes about lists of recent, and about its clock: read exactly as written, or refused."""

from __future__ import annotations

import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfkeep import Family, Rule
from nfkeep.errors import UnsupportedError
from nfkeep.xtables import recent
from nfkeep.xtables.entry import decode
from nfkeep.xtables.jiffies import KernelClock, parse_clock

A_LIST = b"""\
src=fe80:0000:0000:0000:0000:0000:0000:0001 ttl: 0 last_seen: 4297886540 oldest_pkt: 1 4297886540
src=1.2.3.4 ttl: 64 last_seen: 4297886599 oldest_pkt: 3 4297886540, 4297886541, 4297886599
src=0000:0000:0000:0000:0000:ffff:0102:0304 ttl: 255 last_seen: 7 oldest_pkt: 32 7
"""

BAD = {
    "no list at all": b"hello\n",
    "an empty line": b"\n",
    "a line of another kernel": b"src=1.2.3.4 hops: 0 last_seen: 5 oldest_pkt: 1 5\n",
    "no address": b"src=... ttl: 0 last_seen: 5 oldest_pkt: 1 5\n",
    "an octet too large": b"src=1.2.3.400 ttl: 0 last_seen: 5 oldest_pkt: 1 5\n",
    "half an address": b"src=fe80:1 ttl: 0 last_seen: 5 oldest_pkt: 1 5\n",
    "an end in the middle": A_LIST[:150],
    "one bad line among good ones": A_LIST + b"src=\n" + A_LIST,
    "a carriage return": A_LIST.replace(b"\n", b"\r\n"),
    "a number without end": b"src=1.2.3.4 ttl: 0 last_seen: " + b"9" * 400 + b" oldest_pkt: 1 5\n",
    "no text": bytes(range(128, 256)),
}

stamps = st.integers(0, 2**64 - 1)
addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)


def as_written(address: bytes, ttl: int, seen: list[int]) -> str:
    """A line as recent_seq_show() makes it; the last stamp is the newest."""
    if len(address) == 4:
        text = socket.inet_ntop(socket.AF_INET, address)
    else:
        text = ":".join(address[at : at + 2].hex() for at in range(0, 16, 2))
    return f"src={text} ttl: {ttl} last_seen: {seen[-1]} oldest_pkt: {len(seen)} {', '.join(map(str, seen))}\n"


def test_a_list() -> None:
    """Both families, one stamp or many: the packed address and the jiffies of the last."""
    assert recent.parse(A_LIST) == {
        bytes.fromhex("fe800000000000000000000000000001"): 4297886540,
        bytes([1, 2, 3, 4]): 4297886599,
        bytes.fromhex("00000000000000000000ffff01020304"): 7,
    }


def test_an_empty_list() -> None:
    """A list with nothing in it is an empty file."""
    assert recent.parse(b"") == {}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_is_no_list(text: bytes) -> None:
    """Anything else is refused as a whole, with what was not understood."""
    with pytest.raises(UnsupportedError) as caught:
        recent.parse(text)
    assert caught.value.feature == "xt_recent"
    assert len(str(caught.value)) < 300


@given(st.lists(st.tuples(addresses, st.integers(0, 255), st.lists(stamps, min_size=1, max_size=40))))
def test_all_that_the_kernel_can_write(lines: list[tuple[bytes, int, list[int]]]) -> None:
    """Whatever is in a list is read back; of an address that is in it twice the newest stamp."""
    newest: dict[bytes, int] = {}
    for address, _, seen in lines:
        newest[address] = max(seen[-1], newest.get(address, 0))
    assert recent.parse("".join(as_written(*line) for line in lines).encode()) == newest


@given(st.binary() | st.text(alphabet="src=.:tl0159af ,\nlastseeno_pk").map(str.encode))
def test_no_text_is_too_much(text: bytes) -> None:
    """Any bytes are read or refused, and what is read has a key of 4 or 16 bytes for each line at most."""
    try:
        found = recent.parse(text)
    except UnsupportedError:
        return
    assert {len(key) for key in found} <= {4, 16}
    assert len(found) <= len(text.splitlines())


MASKS = {
    "IPv4, none": ("", Family.IPV4, "ff" * 16),
    "IPv4, as saved": ("--mask 255.255.255.255", Family.IPV4, "ff" * 4 + "00" * 12),
    "IPv4, a network": ("--mask 255.255.255.0", Family.IPV4, "ffffff" + "00" * 13),
    "IPv6, none": ("", Family.IPV6, "ff" * 16),
    "IPv6, as saved": ("--mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Family.IPV6, "ff" * 16),
    "IPv6, a network": ("--mask ffff:ffff:ffff:ffff::", Family.IPV6, "ff" * 8 + "00" * 8),
}


@pytest.mark.parametrize(("option", "family", "expected"), MASKS.values(), ids=MASKS)
def test_masks(option: str, family: Family, expected: str) -> None:
    """A rule's mask is what the kernel will use for both families; that of IPv4, once saved, is none for IPv6."""
    (match,) = decode(Rule.parse(f"-m recent --rcheck --name x --rsource {option}", family)).matches
    assert recent.mask(match).hex() == expected


def test_capacity() -> None:
    """What this kernel keeps in each list is a number above zero."""
    assert recent.capacity().size > 0


A_CLOCK = b"""\
Timer List Version: v0.10
HRTIMER_MAX_CLOCK_BASES: 8
now at 11937574523467 nsecs

cpu: 0
 clock 0:
  .idle_jiffies   : 4297883870
  .last_jiffies   : 4297883886
  .idle_expires   : 11937576000000 nsecs
jiffies: 4297876689

cpu: 1
"""


def test_a_clock() -> None:
    """The first processor's line of the timer list, which is no other that has the word."""
    assert parse_clock(A_CLOCK, 250) == KernelClock(4297876689, 250)


@pytest.mark.parametrize("missing", [rb"\njiffies.*", rb".*", rb"\d"])
def test_no_clock(missing: bytes) -> None:
    """A timer list without the clock, or none, shows no clock."""
    assert parse_clock(re.sub(missing, b"", A_CLOCK), 250) is None


@given(st.binary())
def test_any_bytes_are_no_clock(text: bytes) -> None:
    """No bytes are too much."""
    assert parse_clock(text, 250) is None


AGES = {
    "a second": (4297886540, 4297886290, 1.0),
    "now": (100, 100, 0.0),
    "since the clock was read": (100, 103, 0.0),
    "before a counter of 32 bits began again": (250, 2**32 - 250, 2.0),
    "a year": (250 * 86400 * 365 + 2**32, 2**32, 86400.0 * 365),
}


@pytest.mark.parametrize(("now", "stamp", "expected"), AGES.values(), ids=AGES)
def test_ages(now: int, stamp: int, expected: float) -> None:
    """How long ago a stamp was made, in seconds; never less than nothing."""
    assert KernelClock(now, 250).age_seconds(stamp) == expected
