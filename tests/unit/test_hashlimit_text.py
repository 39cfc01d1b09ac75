"""What the kernel writes about tables of hashlimit: read exactly as written, or refused; and what it means in nft."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfkeep import Family
from nfkeep.errors import UnsupportedError
from nfkeep.migrate.hashlimit import Limit, missing, packed_key
from nfkeep.nft import ruleset
from nfkeep.xtables.hashlimit import Bucket, parse

if TYPE_CHECKING:
    from collections.abc import Callable

V4 = b"""\
60 127.0.0.5:0->0.0.0.0:0 41231685900000000 82463371800000000 8246337180000000
-3 10.1.0.0:7000->192.0.2.1:65535 0 32000 6400
"""
V6 = b"""\
59 fd00:0000:0000:0000:0000:0000:0000:0001:7000->fe80:0000:0000:0000:0000:0000:0000:0002:53 7 8 1
"""
BAD = {
    "no table at all": b"hello\n",
    "an empty line": b"\n",
    "a line of another kernel": b"60 127.0.0.5:0->0.0.0.0:0 5 5\n",
    "an octet too large": V4.replace(b".5:", b".500:"),
    "a port too large": V4.replace(b":65535", b":65536"),
    "another family": V6,
    "an end in the middle": V4[:40],
    "one bad line among good ones": V4 + b"60\n" + V4,
    "a carriage return": V4.replace(b"\n", b" \r\n"),
    "a number without end": V4.replace(b"32000", b"3" * 400),
    "no text": bytes(range(128, 256)),
}

numbers = st.integers(0, 2**64 - 1)
ports = st.integers(0, 65535)
seconds = st.integers(-(2**40), 2**40)


def address(family: Family) -> st.SearchStrategy[bytes]:
    length = 16 if family is Family.IPV6 else 4
    return st.binary(min_size=length, max_size=length)


def of(family: Family) -> st.SearchStrategy[Bucket]:
    return st.builds(
        Bucket, st.tuples(address(family), address(family)), st.tuples(ports, ports), seconds, numbers, numbers, numbers
    )


def as_written(bucket: Bucket) -> str:
    """A line as dl_seq_print() makes it."""
    ends = [
        f"{socket.inet_ntoa(each) if len(each) == 4 else each.hex(':', 2)}:{port}"
        for each, port in zip(bucket.addresses, bucket.ports, strict=True)
    ]
    return f"{bucket.seconds_left} {'->'.join(ends)} {bucket.credit} {bucket.cap} {bucket.cost}\n"


def test_a_table() -> None:
    """Both families, ports or none, a key whose time is over."""
    assert parse(V4, Family.IPV4) == [
        Bucket((bytes([127, 0, 0, 5]), bytes(4)), (0, 0), 60, 41231685900000000, 82463371800000000, 8246337180000000),
        Bucket((bytes([10, 1, 0, 0]), bytes([192, 0, 2, 1])), (7000, 65535), -3, 0, 32000, 6400),
    ]
    [bucket] = parse(V6, Family.IPV6)
    assert [each.hex() for each in bucket.addresses] == [f"fd00{1:028x}", f"fe80{2:028x}"]
    assert bucket.ports == (7000, 53)


def test_an_empty_table() -> None:
    """A table with nothing in it is an empty file."""
    assert parse(b"", Family.IPV4) == []


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_is_no_table(text: bytes) -> None:
    """Anything else is refused as a whole, with what was not understood."""
    with pytest.raises(UnsupportedError) as caught:
        parse(text, Family.IPV4)
    assert caught.value.feature == "xt_hashlimit"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("family", Family, ids=str)
def test_all_that_the_kernel_can_write(family: Family) -> None:
    """Whatever is in a table is read back, in its order."""

    @given(st.lists(of(family)))
    def check(written: list[Bucket]) -> None:
        assert parse("".join(map(as_written, written)).encode(), family) == written

    check()


@given(st.binary() | st.text(alphabet="0159.:-> \nfa").map(str.encode), st.sampled_from(Family))
def test_no_text_is_too_much(text: bytes, family: Family) -> None:
    """Any bytes are read or refused."""
    try:
        found = parse(text, family)
    except UnsupportedError:
        return
    assert len(found) == len(text.splitlines())


PACKETS = ruleset.Limit(2, 60, 10)
BYTES = ruleset.Limit(1120, 1, 3360, in_bytes=True)
SECOND = 4_194_304_000  # credits of a bucket of bytes that is full
LACKING = {
    "full": (PACKETS, 1000, 1000, 100, 0.0, 0.0),
    "empty": (PACKETS, 0, 1000, 100, 0.0, 10.0),
    "three and a half gone": (PACKETS, 650, 1000, 100, 0.0, 3.5),
    "one has come since": (PACKETS, 650, 1000, 100, 30.0, 2.5),
    "full by now": (PACKETS, 650, 1000, 100, 3000.0, 0.0),
    "full, of bytes": (BYTES, SECOND, 3, 1, 0.0, 0.0),
    "half a second of bytes": (BYTES, SECOND // 2, 3, 1, 0.0, 560.0),
    "half a second, filled since": (BYTES, SECOND // 2, 3, 1, 0.5, 0.0),
    "no refill left": (BYTES, 0, 0, 1, 0.0, 4480.0),
    "refills do not come back": (BYTES, 0, 1, 1, 100.0, 2240.0),
}


@pytest.mark.parametrize(("limit", "credit", "cap", "cost", "since", "expected"), LACKING.values(), ids=LACKING)
def test_what_a_bucket_lacks(
    limit: ruleset.Limit, credit: int, cap: int, cost: int, since: float, expected: float
) -> None:
    """In packets or bytes, less what comes with time."""
    assert missing(limit, credit, cap, cost, since) == pytest.approx(expected)


def limit(*mode: str, source: int = 32, target: int = 32, rate: str = "3/minute burst 5 packets") -> Limit:
    return Limit(frozenset(mode), rate, 100.0, 60_000, 1000, 10, source, target)


KEYS: dict[str, tuple[Limit, str]] = {
    "source": (limit("srcip"), "0a000001"),
    "both": (limit("dstip", "srcip"), "0a000001c0000201"),
    "ports fill four bytes each": (limit("srcport", "dstip", "dstport"), "c00002010001000000350000"),
    "a mask that leaves nothing": (limit("srcip", "dstip", source=0), "c0000201"),
    "nothing": (limit(), "00000000"),
}


@pytest.mark.parametrize(("of_limit", "expected"), KEYS.values(), ids=KEYS)
def test_keys(of_limit: Limit, expected: str) -> None:
    """A key has the fields that the set has, in its order."""
    assert packed_key(of_limit, (bytes([10, 0, 0, 1]), bytes([192, 0, 2, 1])), (1, 53)).hex() == expected


RATES: dict[str, Callable[[bool], ruleset.Limit]] = {
    "3/minute burst 5 packets": lambda over: ruleset.Limit(3, 60, 5, over=over),
    "1/week burst 1 packets": lambda over: ruleset.Limit(1, 604800, 1, over=over),
    "1120 bytes/second": lambda over: ruleset.Limit(1120, 1, 0, in_bytes=True, over=over),
    "1120 bytes/second burst 3360 bytes": lambda over: ruleset.Limit(1120, 1, 3360, in_bytes=True, over=over),
}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("over", [False, True])
def test_rates(rate: str, over: bool) -> None:
    """The text of a limit says the same as the numbers that the kernel gets."""
    assert limit(rate=rate).in_nft(over=over) == RATES[rate](over)
