"""Ban lists in ipset: what the ipset command says of them, which packets pass, and sets that grow under their users."""

from __future__ import annotations

import errno
import ipaddress
import json
import logging
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from array import array
from typing import TYPE_CHECKING, TypeVar

import pytest
from banned import Flood
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from rounds import rounds

from nfkeep import Family
from nfkeep.bans.ipset_backend import IpsetBackend
from nfkeep.bans.values import Action, Element, Kind, Policy, address_of
from nfkeep.errors import CommitError, ListGoneError, UnsupportedError
from nfkeep.ipset import messages
from nfkeep.ipset.enlarge import enlarge, sole
from nfkeep.ipset.growing import GrowingSet
from nfkeep.ipset.refusals import Refused
from nfkeep.ipset.sets import Sets
from nfkeep.namespaces import Namespace
from nfkeep.testing import Gateway, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nfkeep.testing.fixtures import GatewayFactory

pytestmark = pytest.mark.kernel

T = TypeVar("T")
SETS = ["nfkeep-jail-4", "nfkeep-jail-6", "nfkeep-jail-net4", "nfkeep-jail-net6"]
HOURS = 3 * 3600_000


@pytest.fixture
def make_list(namespace: Namespace) -> Iterator[Callable[..., IpsetBackend]]:
    """Open lists in the namespace, or another; all are closed at the end."""
    opened: list[IpsetBackend] = []

    def make(
        name: str = "jail", *, size: int = 1000, policy: Policy | None = None, inside: Namespace = namespace
    ) -> IpsetBackend:
        backend = IpsetBackend(name)
        with inside:
            backend.open(policy, size, 0)
        opened.append(backend)
        return backend

    yield make
    for backend in opened:
        backend.close()


@pytest.fixture
def sets(namespace: Namespace) -> Iterator[Sets]:
    """A socket to the sets of the namespace."""
    with namespace:
        made = Sets()
    yield made
    made.close()


def kind_of(text: str) -> Kind:
    return Kind((":" in text) + 2 * ("/" in text))


def key(text: str) -> bytes:
    """The key of an address or network."""
    if "/" not in text:
        return ipaddress.ip_address(text).packed
    network = ipaddress.ip_network(text)
    return network.network_address.packed + network.netmask.packed


def keys(texts: Iterable[str]) -> bytes:
    return b"".join(map(key, texts))


def hosts(count: int, first: str = "10.0.0.1") -> list[str]:
    start = int(ipaddress.IPv4Address(first))
    return [socket.inet_ntoa(struct.pack("!I", start + offset)) for offset in range(count)]


def inside(backend: IpsetBackend, kind: Kind) -> dict[str, Element]:
    """The elements by address, as texts."""
    return {str(address_of(kind, each.key)): each for each in backend.elements(kind)}


def saved(namespace: Namespace, set_name: str) -> dict[str, tuple[int, str]]:
    """Timeout and comment of each element, by address, as `ipset save` prints them."""
    found = {}
    for line in namespace.run(["ipset", "save", set_name]).stdout.splitlines():
        if line.startswith("add "):
            told = re.fullmatch(rf'add {re.escape(set_name)} (\S+) timeout (\d+)(?: comment "(.*)")?', line)
            assert told is not None, line
            found[told[1]] = int(told[2]), told[3] or ""
    return found


def names(namespace: Namespace) -> list[str]:
    return sorted(namespace.run("ipset list -n").stdout.split())


def rules_of(namespace: Namespace) -> str:
    return namespace.run("iptables-legacy-save").stdout


def size_of(namespace: Namespace, set_name: str) -> int:
    told = re.search(r"maxelem (\d+)", namespace.run(["ipset", "list", "-t", set_name]).stdout)
    assert told is not None
    return int(told[1])


def in_thread(call: Callable[[], T]) -> tuple[threading.Thread, list[T]]:
    """A thread that makes the call, and the list that its result will be in."""
    result: list[T] = []
    thread = threading.Thread(target=lambda: result.append(call()), daemon=True)
    thread.start()
    return thread, result


class Meddling(Sets):
    """Sets that do something of their own when one has been listed, and before and after two are swapped."""

    def __init__(
        self,
        before: Callable[[], object] = lambda: None,
        after: Callable[[], object] = lambda: None,
        listed: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__()
        self.before, self.after, self.listed = before, after, listed

    def members(self, name: str) -> messages.Members | None:
        found = super().members(name)
        if not name.endswith("+"):
            self.listed()
        return found

    def swap(self, name: str, other: str) -> None:
        self.before()
        super().swap(name, other)
        self.after()


def test_what_is_made(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """A new list has four sets with timeouts and comments, which rules of both families ask, and drops everything."""
    backend = IpsetBackend("jail")
    with namespace:
        assert not backend.exists()
        assert names(namespace) == []
    backend = make_list(size=16000)
    assert backend.exists()
    assert backend.in_force()
    assert names(namespace) == SETS
    headers = re.findall(
        r"Type: (\S+)\n.*\nHeader: family (\S+) .*maxelem (\d+) (.*)", namespace.run("ipset list").stdout
    )
    assert headers == [
        ("hash:ip", "inet", "16000", "timeout 0 comment"),
        ("hash:ip", "inet6", "16000", "timeout 0 comment"),
        ("hash:net", "inet", "2000", "timeout 0 comment"),
        ("hash:net", "inet6", "2000", "timeout 0 comment"),
    ]
    for command, found in (("iptables-legacy-save", ["4", "net4"]), ("ip6tables-legacy-save", ["6", "net6"])):
        assert re.findall(r"--match-set nfkeep-jail-(\S+) src", namespace.run(command).stdout) == found


@pytest.mark.parametrize(
    ("text", "set_name", "listed"),
    [
        ("203.0.113.9", "nfkeep-jail-4", "203.0.113.9"),
        ("255.255.255.255", "nfkeep-jail-4", "255.255.255.255"),
        ("2001:db8::9", "nfkeep-jail-6", "2001:db8::9"),
        ("::1", "nfkeep-jail-6", "::1"),
        ("203.0.113.0/24", "nfkeep-jail-net4", "203.0.113.0/24"),
        ("128.0.0.0/1", "nfkeep-jail-net4", "128.0.0.0/1"),
        ("0.0.0.0/1", "nfkeep-jail-net4", "0.0.0.0/1"),
        ("203.0.113.9/32", "nfkeep-jail-net4", "203.0.113.9"),
        ("2001:db8::/32", "nfkeep-jail-net6", "2001:db8::/32"),
        ("2001:db8::9/128", "nfkeep-jail-net6", "2001:db8::9"),
    ],
)
def test_one_ban(
    namespace: Namespace, make_list: Callable[..., IpsetBackend], text: str, set_name: str, listed: str
) -> None:
    """A ban is in the set of its kind and nowhere else, as the ipset command and the list itself say, until lifted."""
    backend, kind = make_list(), kind_of(text)
    assert backend.add(kind, key(text), HOURS, "ssh: häßlich").banned == 1
    for each in SETS:
        found = {address: comment for address, (_, comment) in saved(namespace, each).items()}
        assert found == ({listed: "ssh: häßlich"} if each == set_name else {})
    seen = backend.get(kind, key(text))
    assert seen is not None
    assert (seen.key, seen.comment, seen.timeout_ms) == (key(text), "ssh: häßlich", seen.expires_ms)
    assert [each.key for each in backend.elements(kind)] == [key(text)]
    assert [backend.count(each) for each in Kind] == [int(each is kind) for each in Kind]
    assert backend.remove(kind, key(text)) == 1
    assert saved(namespace, set_name) == {}
    assert backend.get(kind, key(text)) is None
    assert backend.remove(kind, key(text)) == 0


def test_timeouts(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """A timeout is rounded up to whole seconds; the longest is kept, and only that of no timeout is for ever."""
    backend = make_list()
    asked = [100_000, 100_001, 100_999, 101_000, 2147483_000, 2147482_001, 0]
    addresses = hosts(len(asked) * 20)
    assert backend.add(Kind.HOST4, keys(addresses), array("Q", asked * 20)).banned == len(addresses)
    found = saved(namespace, "nfkeep-jail-4")
    # what the kernel shows is what is left, in whole seconds: only the differences are certain
    left = [[found[address][0] for address in addresses[number :: len(asked)]] for number in range(len(asked))]
    shorter, *longer = [statistics.median_low(each) for each in left]
    assert 0 < shorter <= 100
    assert [each - shorter for each in longer] == [1, 1, 1, 2147383, 2147383, -shorter]
    assert set(left[-1]) == {0}


@pytest.mark.parametrize("timeout_ms", [1, 999, 1000])
def test_shortest_timeouts(make_list: Callable[..., IpsetBackend], timeout_ms: int) -> None:
    """A ban of a moment is one of a second, and not one for ever."""
    backend = make_list()
    begun = time.monotonic()
    backend.add(Kind.HOST4, key("203.0.113.9"), timeout_ms)
    assert wait_until(lambda: backend.get(Kind.HOST4, key("203.0.113.9")) is None)
    assert time.monotonic() - begun >= 0.99  # the kernel counts in ticks, of 10 ms at the most


def test_time_runs_out(make_list: Callable[..., IpsetBackend]) -> None:
    """What is left of a ban gets less, and when it is over the ban is gone, without anybody looking."""
    backend = make_list()
    backend.add(Kind.HOST4, keys(["203.0.113.1", "203.0.113.2"]), array("Q", [1000, 100_000]))
    assert wait_until(lambda: backend.get(Kind.HOST4, key("203.0.113.1")) is None)
    assert list(inside(backend, Kind.HOST4)) == ["203.0.113.2"]
    left = backend.get(Kind.HOST4, key("203.0.113.2"))
    assert left is not None
    assert 90_000 <= left.expires_ms < 100_000
    assert backend.add(Kind.HOST4, key("203.0.113.1"), 0).banned == 1
    assert backend.count(Kind.HOST4) == 2


def test_renewal(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """A ban that is there gets the new timeout and comment: longer, shorter, for ever, with a comment and without."""
    backend = make_list()
    for timeout_ms, comment in [(60_000, "one"), (HOURS, "two"), (20_000, ""), (0, "three"), (HOURS, "")]:
        assert backend.add(Kind.HOST4, key("203.0.113.9"), timeout_ms, comment).banned == 1
        ((left, remark),) = saved(namespace, "nfkeep-jail-4").values()
        assert 0 <= timeout_ms // 1000 - left <= 1
        assert remark == comment


@pytest.mark.parametrize("kind", Kind)
def test_what_ipset_cannot_hold(make_list: Callable[..., IpsetBackend], kind: Kind) -> None:
    """The address that is all zeros, and the network of all addresses, are refused by their position; others go in."""
    backend = make_list()
    zero = bytes(kind.key_bytes)
    good = (
        [zero[:-1] + b"\x80", b"\x80" + zero[1:]] if not kind.is_network else [b"\x80" + zero[1 : kind.key_bytes // 2]]
    )
    if kind.is_network:
        mask = b"\x80" + zero[1 : kind.key_bytes // 2]
        good = [good[0] + mask, zero[: kind.key_bytes // 2] + mask]
    added = backend.add(kind, good[0] + zero + good[1], 0)
    assert added.banned == 2
    ((position, error),) = added.refused
    assert position == 1
    assert isinstance(error, UnsupportedError)
    assert {each.key for each in backend.elements(kind)} == set(good)
    alone = backend.add(kind, zero, array("Q", [5]))
    assert (alone.banned, [at for at, _ in alone.refused]) == (0, [0])
    assert backend.get(kind, zero) is None
    assert backend.remove(kind, zero + good[0]) == 1


def test_networks_in_networks(make_list: Callable[..., IpsetBackend]) -> None:
    """Networks may lie in one another; each is there for itself, and what is only covered by one is not in the list."""
    backend = make_list()
    nets = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32"]
    backend.add(Kind.NET4, keys(nets), 0)
    assert sorted(inside(backend, Kind.NET4)) == sorted(nets)
    assert backend.get(Kind.NET4, key("10.1.2.4/32")) is None
    assert backend.get(Kind.NET4, key("10.1.2.3/32")) is not None
    assert backend.remove(Kind.NET4, keys(["10.1.0.0/16", "10.1.2.4/32"])) == 1
    assert sorted(inside(backend, Kind.NET4)) == ["10.0.0.0/8", "10.1.2.0/24", "10.1.2.3/32"]
    assert backend.get(Kind.NET4, key("10.1.2.0/24")) is not None


def test_exceptions_are_no_bans(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """A `nomatch` that an administrator has put in is not shown as a ban, and is still one when the set has grown."""
    backend = make_list()
    backend.add(Kind.NET4, key("10.0.0.0/8"), 0)
    namespace.run("ipset add nfkeep-jail-net4 10.1.0.0/16 nomatch")
    grow(namespace, "nfkeep-jail-net4", 4096)
    assert list(inside(backend, Kind.NET4)) == ["10.0.0.0/8"]
    assert backend.get(Kind.NET4, key("10.1.0.0/16")) is None
    listing = namespace.run("ipset list nfkeep-jail-net4").stdout
    assert "maxelem 4096" in listing
    assert "10.1.0.0/16 timeout 0 nomatch" in listing


def test_many(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """A hundred thousand bans go in at once, are listed, renewed and taken out, and each is counted once."""
    backend = make_list(size=131072)
    addresses = hosts(100_000)
    some = keys(addresses)
    assert backend.add(Kind.HOST4, some, HOURS).banned == 100_000
    assert set(inside(backend, Kind.HOST4)) == set(addresses)
    assert len(saved(namespace, "nfkeep-jail-4")) == 100_000
    assert backend.add(Kind.HOST4, some, 0).banned == 100_000
    assert {each.timeout_ms for each in backend.elements(Kind.HOST4)} == {0}
    half = keys(addresses[::2])
    assert backend.remove(Kind.HOST4, half) == 50_000
    assert backend.remove(Kind.HOST4, some) == 50_000
    assert backend.count(Kind.HOST4) == 0
    assert size_of(namespace, "nfkeep-jail-4") == 131072


def test_many_timeouts(make_list: Callable[..., IpsetBackend]) -> None:
    """Of many bans in one call each has its own timeout, and all have the comment."""
    backend = make_list(size=10_000)
    addresses = hosts(3000)
    timeouts = array("Q", [(number % 50) * 100_000 for number in range(3000)])
    assert backend.add(Kind.HOST4, keys(addresses), timeouts, "same").banned == 3000
    found = inside(backend, Kind.HOST4)
    assert len(found) == 3000
    for address, timeout in zip(addresses, timeouts, strict=True):
        assert found[address].comment == "same"
        assert timeout - 60_000 <= found[address].timeout_ms <= timeout


def test_counting_what_is_taken_out(make_list: Callable[..., IpsetBackend]) -> None:
    """Of many, how many were in is exact, wherever between them those are that were not."""
    backend = make_list(size=10_000)
    addresses = hosts(2500)
    backend.add(Kind.HOST4, keys(addresses[1::2]), 0)
    assert backend.remove(Kind.HOST4, keys(addresses[:1])) == 0
    assert backend.remove(Kind.HOST4, keys(addresses[:1001])) == 500
    assert backend.remove(Kind.HOST4, keys(addresses)) == 750
    assert backend.count(Kind.HOST4) == 0


def test_grows_at_four_fifths(
    namespace: Namespace, make_list: Callable[..., IpsetBackend], caplog: pytest.LogCaptureFixture
) -> None:
    """A set that is four fifths full doubles, says so, and keeps all elements with what is left to them."""
    backend = make_list(size=40)
    other = make_list()
    addresses = hosts(31)
    with caplog.at_level(logging.WARNING, "nfkeep.bans"):
        for number, address in enumerate(addresses):
            backend.add(Kind.HOST4, key(address), number * 100_000, f"number {number}")
        assert size_of(namespace, "nfkeep-jail-4") == 40
        assert caplog.records == []
        backend.add(Kind.HOST4, key("10.1.0.1"), 0)
        (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "jail" in record.getMessage()
    assert "nfkeep-jail-4" in record.getMessage()
    assert [(fill.name, fill.used, fill.size) for fill in backend.fills()] == [
        ("nfkeep-jail-4", 32, 80),
        ("nfkeep-jail-6", 0, 40),
        ("nfkeep-jail-net4", 0, 1024),
        ("nfkeep-jail-net6", 0, 1024),
    ]
    assert names(namespace) == SETS
    found = inside(other, Kind.HOST4)
    for number, address in enumerate(addresses):
        assert found[address].comment == f"number {number}"
        assert number * 100_000 - 60_000 <= found[address].timeout_ms <= number * 100_000 + 1000
        assert bool(found[address].timeout_ms) == bool(number)
    assert backend.in_force()


@pytest.mark.parametrize("kind", Kind)
def test_grows_when_full(namespace: Namespace, make_list: Callable[..., IpsetBackend], kind: Kind) -> None:
    """Where others have filled a set to the last place, the next bans go in all the same, one or many."""
    backend = make_list(size=16)
    name = SETS[kind]
    room = size_of(namespace, name)
    before = [elsewhere(kind, number) for number in range(room)]
    namespace.run("ipset restore", input="".join(f"add {name} {each}\n" for each in before))
    assert "is full" in namespace.run(["ipset", "add", name, elsewhere(kind, 9999)], check=False).stderr
    after = [elsewhere(kind, number) for number in range(10_000, 10_000 + 3 * room)]
    assert backend.add(kind, key(after[0]), 0).banned == 1
    assert backend.add(kind, keys(after), HOURS).banned == len(after)
    assert set(inside(backend, kind)) == {*before, *after}
    assert size_of(namespace, name) >= 5 * room


def elsewhere(kind: Kind, number: int) -> str:
    """As many different addresses of a kind as are wanted."""
    if kind is Kind.HOST4:
        return str(ipaddress.IPv4Address(0x0A000001 + number))
    if kind is Kind.HOST6:
        return str(ipaddress.IPv6Address((0x20010DB8 << 96) + 1 + number))
    if kind is Kind.NET4:
        return f"{ipaddress.IPv4Address(0x14000000 + number * 256)}/24"
    return f"{ipaddress.IPv6Address((0x20010DB8 << 96) + (number << 64))}/64"


def grow(namespace: Namespace, set_name: str, size: int, sets: Sets | None = None) -> None:
    """Make a set larger, with the lock that this needs."""
    with namespace:
        using = sets or Sets()
        with sole(using, f"{set_name}!") as alone:
            assert alone
            assert enlarge(using, set_name, f"{set_name}+", size) == []
    if sets is None:
        using.close()


def test_strangers_while_it_grows(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """What other programs add, delete and renew between the copy of a set and its taking over is not lost."""
    backend = make_list()
    old = hosts(3000)
    backend.add(Kind.HOST4, keys(old), HOURS, "old")
    backend.add(Kind.HOST4, keys(["192.0.2.1", "192.0.2.2", "192.0.2.3"]), 0)

    def meddle() -> None:
        lines = [
            "add nfkeep-jail-4 198.51.100.1 timeout 5000 comment new",
            "del nfkeep-jail-4 10.0.0.1",
            "del nfkeep-jail-4 192.0.2.1",
            "del nfkeep-jail-4 10.0.0.2",
            "add nfkeep-jail-4 10.0.0.2 timeout 20000",
            "add nfkeep-jail-4 10.0.0.3 timeout 50",
            "add nfkeep-jail-4 10.0.0.4 timeout 0 comment old",
            "add nfkeep-jail-4 10.0.0.5 timeout 10800 comment other",
            "add nfkeep-jail-4 192.0.2.2 timeout 100",
            "add nfkeep-jail-4 192.0.2.3 timeout 0 comment other",
        ]
        namespace.run("ipset -exist restore", input="".join(f"{line}\n" for line in lines))

    with namespace:
        meddling = Meddling(meddle)
    grow(namespace, "nfkeep-jail-4", 8000, meddling)
    meddling.close()
    found = saved(namespace, "nfkeep-jail-4")
    assert set(found) == {*old[1:], "198.51.100.1", "192.0.2.2", "192.0.2.3"}
    expected = {
        "198.51.100.1": (5000, "new"),
        "10.0.0.2": (20000, ""),
        "10.0.0.3": (50, ""),
        "10.0.0.4": (0, "old"),
        "10.0.0.5": (10800, "other"),
        "10.0.0.6": (10800, "old"),
        "192.0.2.2": (100, ""),
        "192.0.2.3": (0, "other"),
    }
    for address, (seconds, comment) in expected.items():
        left, remark = found[address]
        assert remark == comment
        assert bool(left) == bool(seconds)
        assert -30 <= left - seconds <= 1
    assert names(namespace) == SETS


@pytest.mark.parametrize("count", [1, 3000])
def test_adding_while_it_grows(
    namespace: Namespace, make_list: Callable[..., IpsetBackend], sets: Sets, count: int
) -> None:
    """Bans made between copy and swap are in force at once and stay so, and the call returns when that is certain."""
    backend = make_list(size=10_000)
    backend.add(Kind.HOST4, keys(["192.0.2.1", "192.0.2.2"]), 0)
    adding = make_list()
    addresses = hosts(count)
    started: list[threading.Thread] = []
    banned: list[list[int]] = []
    seen: list[bool | None] = []

    def all_in(set_name: str) -> bool:
        return all(sets.test(set_name, messages.identity(key(address))) for address in addresses[:: count // 3 or 1])

    def before() -> None:
        thread, result = in_thread(lambda: adding.add(Kind.HOST4, keys(addresses), HOURS).banned)
        started.append(thread)
        banned.append(result)
        assert wait_until(lambda: all_in("nfkeep-jail-4+"))
        seen.append(all_in("nfkeep-jail-4"))

    def after() -> None:
        seen.append(all_in("nfkeep-jail-4"))
        seen.append(started[0].is_alive())

    with namespace:
        meddling = Meddling(before, after)
    grow(namespace, "nfkeep-jail-4", 20_000, meddling)
    meddling.close()
    started[0].join(10)
    assert seen == [True, True, True]
    assert banned == [[count]]
    assert set(inside(backend, Kind.HOST4)) == {*addresses, "192.0.2.1", "192.0.2.2"}


def test_renewing_while_it_grows(namespace: Namespace, make_list: Callable[..., IpsetBackend], sets: Sets) -> None:
    """A ban that is renewed when the set has been listed, but not yet copied, has its new timeout after the swap."""
    backend = make_list()
    backend.add(Kind.HOST4, keys(hosts(3)), 60_000, "old")
    threads: list[threading.Thread] = []
    seen: list[dict[str, tuple[int, str]]] = []

    def listed() -> None:
        threads.append(in_thread(lambda: backend.add(Kind.HOST4, key("10.0.0.2"), HOURS, "new"))[0])
        assert wait_until(lambda: sets.test("nfkeep-jail-4+", messages.identity(key("10.0.0.2"))) is True)

    with namespace:
        meddling = Meddling(after=lambda: seen.append(saved(namespace, "nfkeep-jail-4")), listed=listed)
    grow(namespace, "nfkeep-jail-4", 8000, meddling)
    meddling.close()
    threads[0].join(10)
    for found in (*seen, saved(namespace, "nfkeep-jail-4")):
        assert {address: comment for address, (_, comment) in found.items()} == {
            "10.0.0.1": "old",
            "10.0.0.2": "new",
            "10.0.0.3": "old",
        }
        assert found["10.0.0.2"][0] > 10_000
    assert len(seen) == 1


def test_growth_shortens_no_ban(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """The kernel tells what is left in whole seconds, rounded down; a ban still lasts as long as it was made for."""
    backend = make_list()
    begun = time.monotonic()
    backend.add(Kind.HOST4, key("203.0.113.9"), 2000)
    grow(namespace, "nfkeep-jail-4", 2000)
    grow(namespace, "nfkeep-jail-4", 4000)
    assert wait_until(lambda: backend.get(Kind.HOST4, key("203.0.113.9")) is None)
    assert 2.0 <= time.monotonic() - begun < 4.5


def test_removing_while_it_grows(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """Bans lifted between copy and swap do not come back, and are counted once."""
    backend = make_list(size=10_000)
    addresses = hosts(2000)
    backend.add(Kind.HOST4, keys(addresses), HOURS)
    removing = make_list()
    removed: list[list[int]] = []
    threads: list[threading.Thread] = []

    def before() -> None:
        thread, result = in_thread(lambda: removing.remove(Kind.HOST4, keys(addresses[500:])))
        threads.append(thread)
        removed.append(result)
        assert wait_until(lambda: len(saved(namespace, "nfkeep-jail-4")) == 500)

    with namespace:
        meddling = Meddling(before)
    grow(namespace, "nfkeep-jail-4", 20_000, meddling)
    meddling.close()
    threads[0].join(10)
    assert removed == [[1500]]
    assert set(inside(backend, Kind.HOST4)) == set(addresses[:500])


def test_flushing_while_it_grows(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """A list that is flushed while one of its sets grows is empty when that is over."""
    backend = make_list()
    backend.add(Kind.HOST4, keys(hosts(500)), HOURS)
    threads: list[threading.Thread] = []

    def before() -> None:
        threads.append(in_thread(backend.flush)[0])
        assert wait_until(lambda: saved(namespace, "nfkeep-jail-4") == {})

    with namespace:
        meddling = Meddling(before)
    grow(namespace, "nfkeep-jail-4", 8000, meddling)
    meddling.close()
    threads[0].join(10)
    assert not threads[0].is_alive()
    assert [backend.count(kind) for kind in Kind] == [0, 0, 0, 0]


def test_a_program_that_lists_for_long(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """A set that another program is listing takes over when the listing is over, and loses nothing meanwhile."""
    backend = make_list(size=10_000)
    addresses = hosts(9000)
    backend.add(Kind.HOST4, keys(addresses[:7000]), HOURS)
    with namespace:
        lister = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    body = messages.target(7, "nfkeep-jail-4")
    lister.send(messages.frame(messages.Command.LIST, messages.NLM_F_DUMP, 1, body))
    thread, result = in_thread(lambda: backend.add(Kind.HOST4, keys(addresses[7000:]), HOURS).banned)
    assert wait_until(lambda: len(saved(namespace, "nfkeep-jail-4+")) >= 9000 if twin(namespace) else False)
    assert thread.is_alive()
    assert size_of(namespace, "nfkeep-jail-4") == 10_000
    lister.close()
    thread.join(10)
    assert result == [2000]
    assert set(inside(backend, Kind.HOST4)) == set(addresses)
    assert size_of(namespace, "nfkeep-jail-4") == 20_000


def twin(namespace: Namespace) -> bool:
    return "nfkeep-jail-4+" in names(namespace)


WORKER = """
import json, random, sys
from nfkeep.bans.ipset_backend import IpsetBackend
from nfkeep.bans.values import Kind

number, steps = map(int, sys.argv[1:])
chance = random.Random(number)
own = [bytes([10, number, high, low]) for high in range(2) for low in range(1, 101)]
backend = IpsetBackend("jail")
backend.open(None, 16, 0)
inside = {}
for _ in range(steps):
    some = chance.sample(own, chance.choice([1, 1, 1, 1, 12, 40]))
    if chance.random() < 0.6:
        timeout, comment = chance.choice([0, 5_000_000, 9_000_000]), chance.choice(["", "a", "b"])
        assert backend.add(Kind.HOST4, b"".join(some), timeout, comment).banned == len(some)
        inside.update(dict.fromkeys(some, (timeout, comment)))
    else:
        assert backend.remove(Kind.HOST4, b"".join(some)) == sum(key in inside for key in some)
        for key in some:
            inside.pop(key, None)
print(json.dumps([[key.hex(), timeout, comment] for key, (timeout, comment) in inside.items()]))
"""


def test_sixteen_processes(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """Sixteen processes ban, renew and lift in one list that grows tenfold meanwhile: in the end it is exact."""
    backend = make_list(size=16)
    workers = [
        namespace.popen(
            [sys.executable, "-c", WORKER, str(number), "250"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for number in range(1, 17)
    ]
    expected = {}
    for worker in workers:
        out, err = worker.communicate(timeout=100)
        assert worker.returncode == 0, err
        for text, timeout, comment in json.loads(out):
            expected[bytes.fromhex(text)] = timeout, comment
    found = {each.key: each for each in backend.elements(Kind.HOST4)}
    assert set(found) == set(expected)
    for address, (timeout, comment) in expected.items():
        assert found[address].comment == comment
        assert -120_000 <= found[address].timeout_ms - timeout <= 10_000
        assert bool(found[address].timeout_ms) == bool(timeout)
    assert size_of(namespace, "nfkeep-jail-4") >= 1024
    assert names(namespace) == SETS


KILLED = """
import os, signal, subprocess, sys
from nfkeep.ipset.enlarge import enlarge, sole
from nfkeep.ipset.sets import Sets

class Dying(Sets):
    def swap(self, name, other):
        if sys.argv[1] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        subprocess.run("ipset add nfkeep-jail-4 192.0.2.77 comment kept".split(), check=True)
        super().swap(name, other)
        if sys.argv[1] == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    def create(self, header):
        if header.name.endswith("+") and sys.argv[1] == "at once":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().create(header)

sets = Dying()
with sole(sets, "nfkeep-jail-4!"):
    enlarge(sets, "nfkeep-jail-4", "nfkeep-jail-4+", 64)
"""


@pytest.mark.parametrize("moment", ["at once", "before", "after"])
@pytest.mark.parametrize("act", ["add", "remove", "flush", "open", "grow", "destroy"])
def test_a_process_killed_while_a_set_grows(
    namespace: Namespace, make_list: Callable[..., IpsetBackend], moment: str, act: str
) -> None:
    """Whoever uses the list next ends what a killed process has left half done; no ban is lost, nothing is left."""
    backend = make_list(size=30)
    addresses = hosts(20)
    backend.add(Kind.HOST4, keys(addresses), HOURS, "kept")
    dead = namespace.popen([sys.executable, "-c", KILLED, moment], stderr=subprocess.PIPE)
    _, err = dead.communicate(timeout=30)
    assert dead.returncode == -signal.SIGKILL, err
    assert "nfkeep-jail-4!" in names(namespace)
    assert twin(namespace) == (moment != "at once")
    if moment == "after":
        addresses.append("192.0.2.77")  # a stranger's, that the dead process has not carried over
    if act == "add":
        assert backend.add(Kind.HOST4, key("192.0.2.1"), HOURS, "kept").banned == 1
        addresses.append("192.0.2.1")
    elif act == "remove":
        assert backend.remove(Kind.HOST4, key(addresses.pop(0))) == 1
    elif act == "flush":
        backend.flush()
        addresses.clear()
    elif act == "open":
        make_list()
    elif act == "grow":
        more = hosts(300, "198.51.100.1")
        assert backend.add(Kind.HOST4, keys(more), HOURS, "kept").banned == 300
        addresses += more
    else:
        backend.destroy()
        assert names(namespace) == []
        return
    found = saved(namespace, "nfkeep-jail-4")
    assert set(found) == set(addresses)
    assert {comment for _, comment in found.values()} <= {"kept"}
    left_lock = moment == "at once" and act != "grow"  # nobody is kept waiting by a lock alone
    assert names(namespace) == sorted([*SETS, *(["nfkeep-jail-4!"] if left_lock else [])])
    backend.destroy()
    assert names(namespace) == []


def test_failure_to_take_over(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """Where a set cannot take over, the old one is as it was, and nothing else is left."""
    backend = make_list()
    backend.add(Kind.HOST4, key("203.0.113.9"), 0)

    def fail() -> None:
        raise CommitError("as if", applied=False, errno=errno.ENOMEM)

    with namespace:
        meddling = Meddling(fail)
    with pytest.raises(CommitError):
        grow(namespace, "nfkeep-jail-4", 8000, meddling)
    meddling.close()
    assert names(namespace) == SETS
    assert size_of(namespace, "nfkeep-jail-4") == 1000
    assert list(saved(namespace, "nfkeep-jail-4")) == ["203.0.113.9"]


def test_one_at_a_time(namespace: Namespace, namespace_factory: Callable[[], Namespace], sets: Sets) -> None:
    """The right to enlarge a set is one process's at a time, wherever it asks, and free again when it is given up."""
    foreign = namespace_factory()
    with namespace:
        other = Sets()
    with sole(sets, "lock") as first:
        assert first
        with sole(other, "lock") as second:
            assert not second
        with foreign, sole(other, "lock") as second:
            assert not second
        with sole(other, "another") as third:
            assert third
        assert names(namespace) == ["lock"]
    assert names(namespace) == []
    with sole(other, "lock") as fourth:
        assert fourth
    other.close()


@pytest.fixture
def gateway(gateway_factory: GatewayFactory) -> Gateway:
    """A client with two addresses, a gateway, a server."""
    return gateway_factory(2)


@pytest.mark.parametrize("family", Family, ids=str)
@pytest.mark.parametrize("network", [False, True], ids=["host", "network"])
def test_packets(gateway: Gateway, make_list: Callable[..., IpsetBackend], family: Family, network: bool) -> None:
    """No packet from a banned source passes from the ban on, not even while its set grows; then, unbanned, they do."""
    source, to = gateway.client_addresses(family)[1], gateway.gateway_address(family)
    text = str(ipaddress.ip_network(f"{source}/{source.max_prefixlen - 1}", strict=False)) if network else str(source)
    kind = kind_of(text)
    backend = make_list(size=16, inside=gateway.gateway)
    with Flood(family, (gateway.client, source), to, 5000, (gateway.gateway, to, 5000)) as flood:
        assert wait_until(lambda: bool(flood.arrived))
        backend.add(kind, key(text), 0)
        begun = flood.begun
        for number in range(3):
            flood.wait_for_more(20)
            more = [elsewhere(kind, 1000 * number + each) for each in range(1000 * (number + 1))]
            backend.add(kind, keys(more), HOURS)
        assert size_of(gateway.gateway, SETS[kind]) >= 2048
        flood.wait_for_more(20)
        ended = flood.begun
        assert not {number for number in flood.later_ones(begun) if number < ended}
        assert backend.remove(kind, key(text)) == 1
        assert wait_until(lambda: bool(flood.later_ones(ended)))


@pytest.mark.parametrize(
    "act",
    [
        lambda backend: backend.add(Kind.HOST4, key("203.0.113.9"), 0),
        lambda backend: backend.add(Kind.NET6, keys(["2001:db8::/64", "2001:db8::/32"]), 0),
        lambda backend: backend.remove(Kind.HOST4, key("203.0.113.9")),
        lambda backend: backend.get(Kind.HOST4, key("203.0.113.9")),
        lambda backend: list(backend.elements(Kind.HOST6)),
        lambda backend: backend.count(Kind.NET4),
        lambda backend: backend.fills(),
        lambda backend: backend.flush(),
    ],
    ids=["add", "add many", "remove", "get", "elements", "count", "fills", "flush"],
)
def test_a_list_that_is_gone(
    namespace: Namespace, make_list: Callable[..., IpsetBackend], act: Callable[[IpsetBackend], object]
) -> None:
    """Where another program has destroyed the sets that is told, and opening the list makes it anew."""
    backend = make_list()
    backend.add(Kind.HOST4, key("203.0.113.9"), 0)
    for table in ("iptables-legacy", "ip6tables-legacy"):
        namespace.run(f"{table} -t mangle -F")
    namespace.run("ipset destroy")
    with pytest.raises(ListGoneError) as raised:
        act(backend)
    assert raised.value.list_name == "jail"
    assert not backend.exists()
    assert not backend.in_force()
    with namespace:
        backend.open(None, 100, 0)
    act(backend)
    assert backend.in_force()


def test_a_list_that_is_not_open() -> None:
    """A list that was never opened, or is closed, keeps no ban, and says so."""
    with pytest.raises(ListGoneError):
        IpsetBackend("jail").add(Kind.HOST4, key("203.0.113.9"), 0)


def test_adoption(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """A list that is there is adopted with its elements, its sizes and what it does; or told to do something else."""
    policy = Policy(Action.REJECT, kill=True)
    first = make_list(size=200, policy=policy)
    first.add(Kind.HOST6, key("2001:db8::9"), HOURS, "first")
    first.close()
    second = IpsetBackend("jail")
    with namespace:
        assert second.exists()
        assert second.open(None, 5000, 0) == policy
        assert second.open(None, 5000, 0) == policy
    (element,) = second.elements(Kind.HOST6)
    assert (element.key, element.comment) == (key("2001:db8::9"), "first")
    assert size_of(namespace, "nfkeep-jail-6") == 200
    with namespace:
        assert second.open(Policy(Action.COUNT), 5000, 0) == Policy(Action.COUNT)
        third = make_list()
        assert third.open(None, 5000, 0) == Policy(Action.COUNT)
    assert third.count(Kind.HOST6) == 1
    second.close()


def test_rules_that_are_gone(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """A list whose rules somebody has flushed is not in force; opening it mends that, and no ban is touched."""
    backend = make_list()
    backend.add(Kind.HOST4, key("203.0.113.9"), 0)
    namespace.run("iptables-legacy -t mangle -F INPUT")
    assert backend.exists()
    assert not backend.in_force()
    with namespace:
        backend.open(None, 100, 0)
    assert backend.in_force()
    assert backend.count(Kind.HOST4) == 1


@pytest.mark.parametrize(
    ("made", "lack"),
    [
        ("hash:ip comment", "timeouts"),
        ("hash:ip timeout 0", "comments"),
        ("hash:ip timeout 0 comment forceadd", "forceadd"),
        ("hash:net timeout 0 comment", "hash:net"),
        ("hash:ip timeout 0 comment family inet6", "IPv6"),
        ("bitmap:ip range 10.0.0.0/24 timeout 0 comment", "bitmap:ip"),
    ],
)
def test_somebody_elses_set(namespace: Namespace, made: str, lack: str) -> None:
    """A set of the same name that cannot keep bans is left alone, and an error says what it lacks; nothing is made."""
    namespace.run(f"ipset create nfkeep-jail-4 {made}")
    namespace.run("ipset create nfkeep-jail-net6 hash:net family inet6 timeout 0 comment")
    backend = IpsetBackend("jail")
    with namespace, pytest.raises(CommitError) as raised:
        backend.open(None, 100, 0)
    assert raised.value.errno == errno.EEXIST
    assert lack in str(raised.value)
    assert names(namespace) == ["nfkeep-jail-4", "nfkeep-jail-net6"]
    assert "nfkeep" not in rules_of(namespace)


def test_half_a_list(namespace: Namespace) -> None:
    """Where the last set cannot be made, those that were made for it are gone; what was there before stays."""
    namespace.run("ipset create nfkeep-jail-6 hash:ip family inet6 timeout 0 comment")
    namespace.run("ipset create nfkeep-jail-net6 hash:ip")
    with namespace, pytest.raises(CommitError):
        IpsetBackend("jail").open(None, 100, 0)
    assert names(namespace) == ["nfkeep-jail-6", "nfkeep-jail-net6"]


def test_flush(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """A flushed list is empty, of all kinds, and in force; another list keeps its bans."""
    backend, other = make_list(), make_list("other")
    for kind in Kind:
        backend.add(kind, key(elsewhere(kind, 1)), 0)
        other.add(kind, key(elsewhere(kind, 1)), 0)
    backend.flush()
    assert [backend.count(kind) for kind in Kind] == [0, 0, 0, 0]
    assert [other.count(kind) for kind in Kind] == [1, 1, 1, 1]
    assert backend.in_force()


def test_destroy(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """A list that is taken down leaves no set, no rule and no chain, and a second time changes nothing."""
    backend, other = make_list(), make_list("other")
    backend.add(Kind.HOST4, key("203.0.113.9"), 0)
    backend.destroy()
    with namespace:
        IpsetBackend("jail").destroy()
        assert not IpsetBackend("jail").exists()
    assert names(namespace) == [name.replace("jail", "other") for name in SETS]
    other.destroy()
    assert names(namespace) == []
    assert "nfkeep" not in rules_of(namespace)
    assert "nfkeep" not in namespace.run("ip6tables-legacy-save").stdout


def test_destroy_with_a_rule_of_somebody_else(namespace: Namespace, make_list: Callable[..., IpsetBackend]) -> None:
    """A set that a rule of somebody else asks cannot be destroyed: that is told, and no ban is left in it."""
    backend = make_list()
    backend.add(Kind.HOST4, key("203.0.113.9"), 0)
    namespace.run("iptables-legacy -A INPUT -m set --match-set nfkeep-jail-4 src -j LOG")
    with pytest.raises(CommitError) as raised:
        backend.destroy()
    assert raised.value.errno == Refused.BUSY
    assert saved(namespace, "nfkeep-jail-4") == {}


def test_the_namespace_is_that_of_open(
    namespace_factory: Callable[[], Namespace], make_list: Callable[..., IpsetBackend]
) -> None:
    """A list belongs to the namespace that it was opened in, wherever it is used, also where it has to grow."""
    one, two = namespace_factory(), namespace_factory()
    first, second = make_list(size=16, inside=one), make_list(size=16, inside=two)
    with two:
        assert first.add(Kind.HOST4, keys(hosts(100)), 0).banned == 100
        assert first.in_force()
    with one:
        second.add(Kind.HOST4, key("203.0.113.9"), 0)
    assert len(saved(one, "nfkeep-jail-4")) == 100
    assert list(saved(two, "nfkeep-jail-4")) == ["203.0.113.9"]
    with two:
        assert first.open(Policy(Action.COUNT), 16, 0) == Policy(Action.COUNT)
    for where, what in ((one, "count"), (two, "drop")):
        rules = rules_of(where)
        assert f"nfkeep ban list jail: {what}" in rules
        assert rules.count("nfkeep ban list jail: ") == 2
    with two:
        first.destroy()
    assert names(one) == []
    assert names(two) == SETS


def test_the_allow_list(make_list: Callable[..., IpsetBackend]) -> None:
    """The allow list is that of the rules."""
    backend = make_list()
    assert list(backend.allowed()) == []
    backend.allow(Kind.NET4, key("198.51.100.0/24"))
    assert list(backend.allowed()) == [(Kind.NET4, key("198.51.100.0/24"))]
    assert backend.disallow(Kind.NET4, keys(["198.51.100.0/24"])) == 1
    assert list(backend.allowed()) == []


FORKED = """
import os, socket, threading
from nfkeep.bans.ipset_backend import IpsetBackend
from nfkeep.bans.values import Kind

backend = IpsetBackend("jail")
backend.open(None, 16, 0)
backend.add(Kind.HOST4, bytes([192, 0, 2, 1]), 0)
child = os.fork()
own = 20 + (not child)
for low in range(1, 201):
    key = bytes([10, own, 0, low])
    assert backend.add(Kind.HOST4, key, 0).banned == 1
    assert backend.get(Kind.HOST4, key).key == key
    assert backend.get(Kind.HOST4, bytes([10, 1, 1, 1])) is None
    assert backend.remove(Kind.HOST4, bytes([10, own, 1, low])) == 0
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert backend.count(Kind.HOST4) == 401
"""


def test_fork(namespace: Namespace) -> None:
    """Parent and child go on with one list after a fork, also while it grows, and each gets its own answers."""
    namespace.run([sys.executable, "-c", FORKED])
    assert len(saved(namespace, "nfkeep-jail-4")) == 401


UNPRIVILEGED = """
import os
from nfkeep.bans.ipset_backend import IpsetBackend
from nfkeep.errors import PermissionDeniedError

os.setgid(65534)
os.setuid(65534)
for act in (lambda each: each.exists(), lambda each: each.open(None, 100, 0), lambda each: each.destroy()):
    try:
        act(IpsetBackend("jail"))
    except PermissionDeniedError as error:
        print(error.needed)
"""


def test_without_rights(namespace: Namespace) -> None:
    """Without the right to change the host's network each beginning is a PermissionDeniedError that names it."""
    told = namespace.run([sys.executable, "-c", UNPRIVILEGED]).stdout.splitlines()
    assert len(told) == 3
    assert all("CAP_NET_ADMIN" in line for line in told)


def test_a_long_life(sets: Sets) -> None:
    """Sequence numbers begin anew before they would not fit, and answers to earlier ones are never taken for later."""
    assert sets.create(sets.describe("x", "hash:ip", Family.IPV4, 100))
    growing = GrowingSet(sets, "x", lambda text: None)
    sets.channel.next(0x7FFF0000 - 3)
    for number in range(1, 9):
        sets.channel.send(messages.frame(messages.Command.PROTOCOL, 0, number, messages.version(7)))  # nobody reads it
        growing.add([messages.identity(bytes([10, 0, 0, number])) + messages.lifetime(0)])
        assert growing.fill() == (number, 100)
    assert sets.channel.next(1) < 1000


ADDRESSES = st.sampled_from([*hosts(30), *(f"2001:db8::{number:x}" for number in range(1, 20))])
NETWORKS = st.sampled_from(["10.0.0.0/8", "10.0.0.0/24", "10.0.0.4/32", "0.0.0.0/1", "2001:db8::/32", "2001:db8::/64"])
TIMEOUTS = st.sampled_from([0, 600_000, 3600_000, 86_400_000])


class ListAndModel(RuleBasedStateMachine):
    """A list, with room for few, beside a dictionary from address to timeout and comment."""

    @initialize()
    def start(self) -> None:
        self.namespace = Namespace()
        self.model: dict[str, tuple[int, str]] = {}
        self.backend = IpsetBackend("model")
        with self.namespace:
            self.backend.open(None, 8, 0)

    @rule(address=st.one_of(ADDRESSES, NETWORKS), timeout=TIMEOUTS, comment=st.sampled_from(["", "x", "y" * 255]))
    def add(self, address: str, timeout: int, comment: str) -> None:
        assert self.backend.add(kind_of(address), key(address), timeout, comment).banned == 1
        self.model[address] = timeout, comment

    @rule(some=st.lists(ADDRESSES, unique=True, min_size=1), timeout=TIMEOUTS)
    def add_many(self, some: list[str], timeout: int) -> None:
        for kind in (Kind.HOST4, Kind.HOST6):
            own = [address for address in some if kind_of(address) is kind]
            assert self.backend.add(kind, keys(own), array("Q", [timeout] * len(own))).banned == len(own)
            self.model.update(dict.fromkeys(own, (timeout, "")))

    @rule(some=st.lists(st.one_of(ADDRESSES, NETWORKS), unique=True, min_size=1))
    def remove(self, some: list[str]) -> None:
        for kind in Kind:
            own = [address for address in some if kind_of(address) is kind]
            assert self.backend.remove(kind, keys(own)) == sum(address in self.model for address in own)
        for address in some:
            self.model.pop(address, None)

    @rule()
    def flush(self) -> None:
        self.backend.flush()
        self.model.clear()

    @rule()
    def reopen(self) -> None:
        self.backend.close()
        self.backend = IpsetBackend("model")
        with self.namespace:
            self.backend.open(None, 8, 0)

    @rule(address=st.one_of(ADDRESSES, NETWORKS))
    def get(self, address: str) -> None:
        found = self.backend.get(kind_of(address), key(address))
        assert (found is not None) == (address in self.model)

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "backend"):
            return
        found: dict[str, Element] = {}
        for kind in Kind:
            found |= inside(self.backend, kind)
        assert set(found) == set(self.model)
        for address, (timeout, comment) in self.model.items():
            assert found[address].comment == comment
            assert timeout - 120_000 <= found[address].timeout_ms <= timeout + (10_000 if timeout else 0)

    def teardown(self) -> None:
        if hasattr(self, "backend"):
            self.backend.close()
            self.namespace.close()


def test_as_a_dictionary() -> None:
    """Whatever is done with a list, in any order and while it grows, it is what a dictionary would be."""
    run_state_machine_as_test(
        ListAndModel,
        settings=settings(
            max_examples=rounds(25),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
