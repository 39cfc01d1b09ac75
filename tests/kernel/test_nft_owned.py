"""Owned tables, and their counters read by netlink, beside what `nft` says of them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfkeep.errors import NfkeepError
from nfkeep.nft import netlink
from nfkeep.nft.netlink import INET, Reader
from nfkeep.nft.owned import OwnedTable
from nfkeep.testing import Namespace

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
BODY = """
counter first { packets 5 bytes 500 }
counter second { }
counter big { packets 18446744073709551615 bytes 1 }
quota other { 25 mbytes }
chain c { type filter hook output priority 0
udp dport 9 counter name first
udp dport { 9, 10 } counter name second
}
"""


@pytest.fixture
def host() -> Iterator[Namespace]:
    namespace = Namespace()
    try:
        yield namespace
    finally:
        namespace.close()


def listed(host: Namespace, name: str) -> dict[str, int]:
    """As `nft` prints them."""
    text = host.run(f"nft list counters table inet {name}").stdout
    return {counter: int(packets) for counter, packets in re.findall(r"counter (\w+) \{\s*packets (\d+)", text)}


def test_counters_read_as_nft_lists_them(host: Namespace) -> None:
    """Before, between and after traffic; other objects and other tables with the same names are left out."""
    host.run("nft -f -", input=f"table inet alike {{ {BODY} }}\ntable ip alike {{ counter first {{ }}\n }}\n")
    with host, OwnedTable(BODY) as table, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        assert table.counters() == {"first": 5, "second": 0, "big": 2**64 - 1}
        assert table.counters() == listed(host, table.name)
        for port in (9, 10, 9, 10, 10):
            sender.sendto(b"x", ("127.0.0.1", port))
        assert table.counters() == {"first": 7, "second": 5, "big": 2**64 - 1}
        assert table.counters() == listed(host, table.name)
        table.run(f"delete counter inet {table.name} big\n")
        assert table.counters() == {"first": 7, "second": 5}


def test_hundreds_of_counters(host: Namespace) -> None:
    """More than one message of the kernel holds."""
    body = "".join(f"counter c{number} {{ packets {number} bytes 0 }}\n" for number in range(900))
    with host, OwnedTable(body) as table:
        assert table.counters() == {f"c{number}": number for number in range(900)}


def test_no_counters_and_no_table(host: Namespace) -> None:
    """Both give an empty answer."""
    reader = None
    with host, OwnedTable("") as table:
        reader = Reader()
        assert table.counters() == {}
        assert reader.counters(INET, "nowhere") == {}
    reader.close()
    reader.close()


def test_a_call_costs_microseconds(host: Namespace) -> None:
    """The fastest of some hundred: a budget that a slow machine keeps too, and that libnftables is far above."""
    with host, OwnedTable(BODY) as table:
        times = []
        for _ in range(300):
            began = time.perf_counter()
            table.counters()
            times.append(time.perf_counter() - began)
    assert min(times) < 200e-6


def test_while_others_change_the_rules(host: Namespace) -> None:
    """An interrupted dump is repeated: every answer is complete."""
    body = "".join(f"counter c{number} {{ }}\n" for number in range(300))
    churn = "while :; do nft add table ip x; nft delete table ip x; done"
    host.popen(["sh", "-c", churn])
    with host, OwnedTable(body) as table:
        assert {len(table.counters()) for _ in range(500)} == {300}


def test_without_rights(host: Namespace) -> None:
    """PermissionDeniedError, as from everything else."""
    code = (
        "import os\nfrom nfkeep.nft.netlink import *\nfrom nfkeep.errors import *\nos.setuid(65534)\n"
        "reader = Reader()\ntry: reader.counters(INET, 'x')\nexcept PermissionDeniedError: print('denied')"
    )
    with host:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "denied\n"


CUT = {
    "a message longer than what came": b"\x30\0\0\0\x12\x0a\0\0\1\0\0\0\0\0\0\0" + bytes(8),
    "a message shorter than its header": b"\x04\0\0\0\x12\x0a\0\0\1\0\0\0\0\0\0\0" + bytes(8),
}


@pytest.mark.parametrize("data", CUT.values(), ids=CUT)
def test_messages_that_are_cut_short(data: bytes) -> None:
    """An error, never bytes beyond the end."""
    with pytest.raises(NfkeepError):
        list(netlink._messages(data, 1))


ATTRIBUTES = {
    "longer than what came": b"\x20\0\1\0abc\0",
    "shorter than its header": b"\3\0\1\0abc\0",
    "no number of packets": b"\x08\0\2\0abc\0",
    "too short a number": b"\x0c\0\4\x80\x08\0\2\0\0\0\0\0",
}


@pytest.mark.parametrize("data", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_attributes_that_are_cut_short(data: bytes) -> None:
    """The same for one counter."""
    with pytest.raises(NfkeepError):
        netlink._counter(data)
