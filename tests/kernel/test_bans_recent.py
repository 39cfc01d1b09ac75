"""Ban lists in xt_recent: real packets, real lists, and not one ban lost to the kernel's silent evictions."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from seccomp import environment

import nfkeep
from nfkeep import Family
from nfkeep.bans.backend import Added
from nfkeep.bans.recent_backend import RecentBackend
from nfkeep.bans.values import Action, Element, Kind, Policy, services
from nfkeep.errors import InvalidListError, ListFullError, ListGoneError, UnsupportedError
from nfkeep.keep import hold
from nfkeep.testing import wait_until
from nfkeep.xtables import recent
from nfkeep.xtables.jiffies import read_clock

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace
    from nfkeep.testing import Gateway
    from nfkeep.testing.fixtures import Dialer, EchoServerFactory

pytestmark = pytest.mark.kernel

NAME = "fail2ban-sshd"
SIZE = recent.capacity().size
TOOLS = {Family.IPV4: "iptables-legacy", Family.IPV6: "ip6tables-legacy"}
HOSTS = {Family.IPV4: Kind.HOST4, Family.IPV6: Kind.HOST6}
SILENCE = 0.4  # seconds without an answer that stand for none at all
FAMILIES = pytest.mark.parametrize("family", list(Family), ids=str)

Opener = Callable[..., RecentBackend]


def four(number: int) -> bytes:
    """One of many IPv4 addresses."""
    return bytes([10, 7, number >> 8, number & 255])


def six(number: int) -> bytes:
    """One of many IPv6 addresses."""
    return bytes([0xFD, 7, *bytes(12), number >> 8, number & 255])


def held(backend: RecentBackend) -> set[bytes]:
    """All that is in force."""
    return {element.key for kind in HOSTS.values() for element in backend.elements(kind)}


def in_kernel(namespace: Namespace, name: str = NAME) -> set[bytes]:
    """All that is in the list's file."""
    with namespace:
        return set(recent.parse(Path(recent.DIRECTORY, name).read_bytes()))


def write(namespace: Namespace, command: str, name: str = NAME) -> None:
    """What `echo` does to a list."""
    with namespace, open(f"{recent.DIRECTORY}/{name}", "wb", buffering=0) as file:
        file.write(command.encode())


@pytest.fixture
def opened(namespace: Namespace) -> Iterator[Opener]:
    """Open lists in the namespace of the test, or another; they are closed after it."""
    with contextlib.ExitStack() as stack:

        def make(
            policy: Policy | None = None, timeout_ms: int = 0, name: str = NAME, where: Namespace = namespace
        ) -> RecentBackend:
            backend = RecentBackend(name)
            stack.callback(backend.close)
            with where:
                backend.open(policy, 1000, timeout_ms)
            return backend

        yield make


@pytest.fixture
def reached(gateway: Gateway, echo_server: EchoServerFactory, dialer: Dialer) -> Callable[..., list[tuple[str, int]]]:
    """Places and ports where the client gets an echo, through the gateway or from it; expected ones get more time."""
    places = {
        (place, family, port): echo_server(where, family, "tcp", address(family), port)
        for place, where, address in (
            ("INPUT", gateway.gateway, gateway.gateway_address),
            ("FORWARD", gateway.server, gateway.server_address),
        )
        for family in Family
        for port in (22, 80)
    }

    def call(family: Family, expected: list[tuple[str, int]]) -> list[tuple[str, int]]:
        address = {"INPUT": gateway.gateway_address(family), "FORWARD": gateway.server_address(family)}
        return [
            (place, port)
            for place, of_family, port in places
            if of_family is family
            and dialer(
                gateway.client, family, "tcp", address[place], port, timeout=5 if (place, port) in expected else SILENCE
            )
        ]

    return call


ALL = [("INPUT", 22), ("INPUT", 80), ("FORWARD", 22), ("FORWARD", 80)]
OTHERS = [("INPUT", 80), ("FORWARD", 80)]


@FAMILIES
def test_a_ban_is_in_force_for_the_next_packet(
    gateway: Gateway, opened: Opener, reached: Callable[..., object], family: Family
) -> None:
    """A banned client reaches neither the host nor what is behind it; unbanned, it does."""
    client = gateway.client_addresses(family)[0].packed
    backend = opened(where=gateway.gateway)
    assert reached(family, ALL) == ALL
    assert backend.add(HOSTS[family], client, 0) == Added(1)
    assert reached(family, []) == []
    assert backend.remove(HOSTS[family], client) == 1
    assert reached(family, ALL) == ALL


@FAMILIES
def test_only_services(gateway: Gateway, opened: Opener, reached: Callable[..., object], family: Family) -> None:
    """A list for one port lets the others pass; the same list opened with another policy keeps its bans."""
    backend = opened(Policy(Action.REJECT, services("22/tcp")), where=gateway.gateway)
    backend.add(HOSTS[family], gateway.client_addresses(family)[0].packed, 0)
    assert reached(family, OTHERS) == OTHERS
    other = opened(Policy(), where=gateway.gateway)
    assert reached(family, []) == []
    assert (len(held(backend)), backend.in_force(), other.in_force()) == (1, True, True)
    with gateway.gateway:
        assert backend.open(None, 0, 0) == Policy()
    assert reached(family, []) == []


@FAMILIES
def test_the_allow_list_wins(gateway: Gateway, opened: Opener, reached: Callable[..., object], family: Family) -> None:
    """Who is in the allow list passes, banned or not."""
    client = gateway.client_addresses(family)[0].packed
    backend = opened(where=gateway.gateway)
    backend.add(HOSTS[family], client, 0)
    backend.allow(HOSTS[family], client)
    assert list(backend.allowed()) == [(HOSTS[family], client)]
    assert reached(family, ALL) == ALL
    assert backend.disallow(HOSTS[family], client) == 1
    assert reached(family, []) == []


def test_what_is_in(opened: Opener) -> None:
    """Adding, renewing, removing and asking agree with each other and with the kernel, in both families."""
    backend = opened()
    keys = [four(number) for number in range(5)]
    assert backend.add(Kind.HOST4, b"".join(keys), array("Q", [0] * 5)).banned == 5
    assert backend.add(Kind.HOST4, keys[0] + four(9), 0).banned == 2
    assert backend.add(Kind.HOST6, six(1), 0) == Added(1)
    assert backend.add(Kind.HOST6, six(1), 0) == Added(1)
    assert {element.key for element in backend.elements(Kind.HOST4)} == {*keys, four(9)}
    assert list(backend.elements(Kind.HOST6)) == [Element(six(1))]
    assert (backend.count(Kind.HOST4), backend.count(Kind.HOST6)) == (6, 1)
    assert (backend.get(Kind.HOST4, keys[3]), backend.get(Kind.HOST4, four(8))) == (Element(keys[3]), None)
    assert backend.remove(Kind.HOST4, keys[3] + four(8)) == 1
    assert backend.get(Kind.HOST4, keys[3]) is None
    (fill,) = backend.fills()
    assert (fill.name, fill.used, fill.size) == (NAME, 6, SIZE)
    backend.flush()
    assert (held(backend), backend.in_force()) == (set(), True)


EVERY_SIX = [
    "::",
    "::1",
    "::1.2.3.4",
    "::ffff:1.2.3.4",
    "1::",
    "fe80::1:0:0:1",
    "1:2:3:4:5:6:7:8",
    "f" * 4 + ":ffff" * 7,
]


@pytest.mark.parametrize("text", EVERY_SIX)
def test_every_way_to_write_ipv6(opened: Opener, namespace: Namespace, text: str) -> None:
    """The kernel takes each address for the one that was meant."""
    key = socket.inet_pton(socket.AF_INET6, text)
    opened().add(Kind.HOST6, key, 0)
    assert in_kernel(namespace) == {key}


def test_what_others_write(opened: Opener, namespace: Namespace) -> None:
    """What `echo` adds or takes out by hand is seen at once."""
    backend = opened()
    backend.add(Kind.HOST4, four(1), 0)
    write(namespace, "+10.7.0.2")
    write(namespace, "-10.7.0.1")
    assert held(backend) == {four(2)}
    backend.add(Kind.HOST4, four(1), 0)
    assert held(backend) == {four(1), four(2)}


def test_a_full_list(opened: Opener, namespace: Namespace) -> None:
    """What has no room is refused with the remedy; nothing falls out, and what is in can be renewed and taken out."""
    backend = opened()
    keys = [four(number) for number in range(SIZE + 2)]
    added = backend.add(Kind.HOST4, b"".join(keys), 0)
    assert (added.banned, [position for position, _ in added.refused]) == (SIZE, [SIZE, SIZE + 1])
    for _, error in added.refused:
        assert isinstance(error, ListFullError)
        assert (error.list_name, error.size) == (NAME, SIZE)
        assert "xt_recent.ip_list_tot=" in str(error) or "modprobe.d" in str(error)
    assert in_kernel(namespace) == set(keys[:SIZE])
    assert backend.add(Kind.HOST4, keys[0], 0) == Added(1)
    assert len(backend.add(Kind.HOST6, six(1), 0).refused) == 1
    assert in_kernel(namespace) == set(keys[:SIZE])
    assert backend.remove(Kind.HOST4, keys[7]) == 1
    assert backend.add(Kind.HOST6, six(1), 0) == Added(1)
    assert len(backend.add(Kind.HOST4, keys[7], 0).refused) == 1
    write(namespace, "-10.7.0.8")
    assert backend.add(Kind.HOST4, keys[7], 0) == Added(1)


@pytest.mark.parametrize("turns", [1, 1000])
def test_old_knowledge_is_not_acted_upon(opened: Opener, namespace: Namespace, turns: int) -> None:
    """One that knew of much room adds nothing after others, since gone, have filled the list, in however many turns."""
    early, late, other = opened(), opened(), opened()
    assert early.add(Kind.HOST4, four(0), 0) == Added(1)
    for _ in range(turns):
        other.add(Kind.HOST4, four(1), 0)
        late.add(Kind.HOST4, four(2), 0)
    late.add(Kind.HOST4, b"".join(four(number) for number in range(1, SIZE)), 0)
    late.close()
    other.close()
    assert len(early.add(Kind.HOST4, four(SIZE), 0).refused) == 1
    assert in_kernel(namespace) == {four(number) for number in range(SIZE)}


def test_lists_of_other_names_are_not_confused(opened: Opener) -> None:
    """Many lists in one process, used in turns, each know what is in them."""
    backends = [opened(name=f"list{number}") for number in range(40)]
    for number in range(4):
        for each in backends:
            assert each.add(Kind.HOST4, four(number), 0) == Added(1)
    assert {len(held(each)) for each in backends} == {4}


ADDER = """
import sys
from nfkeep.bans.recent_backend import RecentBackend
from nfkeep.bans.values import Kind
number = int(sys.argv[1])
backend = RecentBackend("fail2ban-sshd")
backend.open(None, 0, 0)
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.read()
for last in range(60):
    key = bytes([10, number, 0, last])
    if last % 7 == 6:
        backend.add(Kind.HOST4, bytes([10, number, 0, last - 6]), 0)
    if not backend.add(Kind.HOST4, key, 0).refused:
        print(key.hex())
"""


@pytest.mark.parametrize("full", [0, SIZE - 3], ids=["empty", "nearly full"])
def test_processes_at_once(opened: Opener, namespace: Namespace, full: int) -> None:
    """However many processes add at once, what each was told to be in is in, and the list is full in the end."""
    if SIZE > 1000:
        pytest.skip(f"it takes too long to fill lists of {SIZE}")
    backend = opened()
    expected = {four(number) for number in range(full)}
    backend.add(Kind.HOST4, b"".join(sorted(expected)), 0)
    count = max(4, SIZE // 50)
    running = [
        namespace.popen([sys.executable, "-c", ADDER, str(100 + number)], stdin=-1, stdout=-1)
        for number in range(count)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
    for process in running:
        assert process.stdout is not None
        with process:
            expected |= {bytes.fromhex(line) for line in process.stdout}
        assert process.returncode == 0
    assert len(expected) == SIZE
    assert in_kernel(namespace) == expected


def test_a_timeout_of_the_list(gateway: Gateway, opened: Opener, reached: Callable[..., object]) -> None:
    """After it a ban has no effect, and is none any more; then the host can be banned again."""
    client = gateway.client_addresses(Family.IPV4)[0].packed
    backend = opened(timeout_ms=600, where=gateway.gateway)
    backend.add(Kind.HOST4, client, 0)
    found = backend.get(Kind.HOST4, client)
    assert found is not None
    assert (found.timeout_ms, 0 < found.expires_ms <= 1000) == (1000, True)
    assert wait_until(lambda: backend.get(Kind.HOST4, client) is None)
    assert wait_until(lambda: reached(Family.IPV4, ALL) == ALL)
    assert (backend.count(Kind.HOST4), backend.fills()[0].used, backend.remove(Kind.HOST4, client)) == (0, 1, 0)
    assert backend.add(Kind.HOST4, client, 0) == Added(1)


def test_ages_are_the_kernels(opened: Opener) -> None:
    """How long a ban has left is the same for who made it and who comes later, and goes down."""
    backend = opened(timeout_ms=3600_000)
    backend.add(Kind.HOST4, four(1), 0)

    def left(one: RecentBackend) -> int:
        found = one.get(Kind.HOST4, four(1))
        assert found is not None
        return found.expires_ms

    first = left(backend)
    assert 3_595_000 < first <= 3_600_000
    assert wait_until(lambda: left(opened(timeout_ms=3600_000)) < first - 50)
    backend.add(Kind.HOST4, four(1), 0)
    assert wait_until(lambda: left(backend) > first - 50)


def test_the_kernels_clock() -> None:
    """It runs at its rate since the kernel started, five minutes below 2**32 (INITIAL_JIFFIES, linux/jiffies.h)."""
    clock, seconds = read_clock(), time.monotonic()
    assert clock is not None
    assert abs((clock.jiffies - 2**32) / clock.rate + 300 - seconds) < 2 + seconds / 1000


def test_what_is_past_its_timeout_makes_room(opened: Opener, namespace: Namespace) -> None:
    """A list full of bans that have ended takes new ones, and only those go."""
    backend = opened(timeout_ms=1000)
    keys = b"".join(four(number) for number in range(SIZE))
    backend.add(Kind.HOST4, keys, 0)
    assert len(backend.add(Kind.HOST4, four(SIZE), 0).refused) == 1
    assert wait_until(lambda: backend.count(Kind.HOST4) == 0)
    assert backend.add(Kind.HOST4, four(SIZE) + four(0), 0) == Added(2, [])
    assert in_kernel(namespace) == {four(SIZE), four(0)}


def test_another_timeout(opened: Opener) -> None:
    """A list opened with another timeout keeps its bans, which end by the new one."""
    opened(timeout_ms=60_000).add(Kind.HOST4, four(1), 0)
    assert opened(timeout_ms=0).get(Kind.HOST4, four(1)) == Element(four(1))
    found = opened(timeout_ms=100_000).get(Kind.HOST4, four(1))
    assert found is not None
    assert (found.timeout_ms, found.expires_ms > 60_000) == (100_000, True)


def test_a_timeout_that_the_kernel_cannot_count(namespace: Namespace) -> None:
    """A timeout at which the kernel's 32 bits would run over is refused before anything is made."""
    backend = RecentBackend(NAME)
    with namespace:
        with pytest.raises(InvalidListError):
            backend.open(None, 0, 2**32 * 1000)
        assert (backend.exists(), nfkeep.xtables.tables.in_use(Family.IPV4)) == (False, ())


SEED = "-I INPUT -m recent --update --seconds 3600 --name fail2ban-sshd -j DROP"


def adoptable(namespace: Namespace) -> list[str]:
    """The set-up of old: a rule by hand, and `echo` to ban; the rules then."""
    namespace.run(f"iptables-legacy {SEED}")
    write(namespace, "+10.7.0.1\n")
    write(namespace, "+10.7.0.2\n")
    return namespace.run("iptables-legacy -S").stdout.splitlines()


def test_adoption(opened: Opener, namespace: Namespace) -> None:
    """A list that was there keeps its entries and its rule; when we go, it is as before, with what was added."""
    before = adoptable(namespace)
    with namespace:
        assert RecentBackend(NAME).exists()
    backend = opened()
    assert held(backend) == {four(1), four(2)}
    assert backend.add(Kind.HOST4, four(1) + four(3), 0).banned == 2
    assert backend.in_force()
    assert namespace.run("iptables-legacy -S").stdout.splitlines() == before
    backend.destroy()
    assert namespace.run("iptables-legacy -S").stdout.splitlines() == before
    assert "nfkeep" not in namespace.run("iptables-legacy-save").stdout
    assert in_kernel(namespace) == {four(1), four(2), four(3)}


def test_adoption_of_a_list_with_fewer_stamps(opened: Opener, namespace: Namespace) -> None:
    """A list that was made for a small hit count is not emptied, at which opening, and by whom, be as it may."""
    namespace.run("iptables-legacy -A INPUT -m recent --rcheck --hitcount 4 --name fail2ban-sshd -j DROP")
    write(namespace, "+10.7.0.1")
    opened(timeout_ms=1000_000)
    namespace.run("iptables-legacy -F")
    assert held(opened()) == {four(1)}
    assert opened().in_force()


def test_adoption_of_a_list_of_iptables_nft(opened: Opener, namespace: Namespace) -> None:
    """A list that a rule of iptables-nft made, which we cannot see, is adopted with its entries."""
    namespace.run("iptables-nft -A INPUT -m recent --rcheck --hitcount 4 --name fail2ban-sshd -j DROP")
    write(namespace, "+10.7.0.1")
    for _ in range(2):
        backend = opened()
        assert (held(backend), backend.in_force()) == ({four(1)}, True)
    backend.destroy()
    assert in_kernel(namespace) == {four(1)}


@FAMILIES
def test_adoption_after_a_restore(
    gateway: Gateway, opened: Opener, reached: Callable[..., object], family: Family
) -> None:
    """A list that iptables-restore made, with a mask that is none for IPv6, is made anew: bans have effect again."""
    client = gateway.client_addresses(family)[0].packed
    first = opened(where=gateway.gateway)
    first.add(HOSTS[family], four(1) if family is Family.IPV4 else six(1), 0)
    restore(gateway.gateway)
    assert not first.in_force()
    write(gateway.gateway, f"+{gateway.client_addresses(family)[0]}")
    backend = opened(where=gateway.gateway)
    assert held(backend) == {client}
    assert reached(family, []) == []
    backend.remove(HOSTS[family], client)
    backend.add(HOSTS[family], client, 0)
    assert reached(family, []) == []
    assert (backend.in_force(), opened(where=gateway.gateway).in_force()) == (True, True)


def restore(namespace: Namespace) -> None:
    """What a reboot does to the rules of a host with netfilter-persistent: all go, and come back, IPv4 first."""
    texts = {tool: namespace.run(f"{tool}-save").stdout for tool in TOOLS.values()}
    for tool in texts:
        for table in ("mangle", "filter", "raw"):
            namespace.run(f"{tool} -t {table} -F")
            namespace.run(f"{tool} -t {table} -X")
    for tool, text in texts.items():
        namespace.run(f"{tool}-restore", input=text)


def test_ipv6_in_a_list_that_iptables_restore_made(
    gateway: Gateway, opened: Opener, reached: Callable[..., object]
) -> None:
    """Where a restored rule of somebody else may have made the list, IPv6 is refused, and IPv4 has effect."""
    address = gateway.client_addresses(Family.IPV6)[0]
    gateway.gateway.run(f"iptables-legacy {SEED}")
    restore(gateway.gateway)
    for _ in range(2):
        backend = opened(where=gateway.gateway)
        ((position, error),) = backend.add(Kind.HOST6, address.packed, 0).refused
        assert (position, type(error)) == (0, UnsupportedError)
        assert "INPUT rule 1" in str(error)
        assert backend.in_force()
    # that is why: in the list, and of no effect
    write(gateway.gateway, f"+{address}")
    assert reached(Family.IPV6, ALL) == ALL
    backend.add(Kind.HOST4, gateway.client_addresses(Family.IPV4)[0].packed, 0)
    assert reached(Family.IPV4, []) == []
    # the doubt outlives that rule, as the list does, until nothing keeps us from making it anew
    gateway.gateway.run("iptables-legacy -D INPUT 1")
    backend = opened(where=gateway.gateway)
    assert backend.add(Kind.HOST6, address.packed, 0) == Added(1)
    assert (reached(Family.IPV4, []), reached(Family.IPV6, [])) == ([], [])


def test_a_list_made_for_networks(opened: Opener, namespace: Namespace) -> None:
    """Where a rule of somebody else has a mask of networks, hosts of both families are refused."""
    namespace.run("iptables-legacy -A INPUT -m recent --set --name fail2ban-sshd --mask 255.255.255.0")
    backend = opened()
    for kind, key in ((Kind.HOST4, four(1)), (Kind.HOST6, six(1))):
        ((_, error),) = backend.add(kind, key, 0).refused
        assert isinstance(error, UnsupportedError)
    assert in_kernel(namespace) == set()


LACKING = {
    "no match": (54, 64, errno.ENOENT, "xt_recent"),  # setsockopt, IPT_SO_SET_REPLACE
    "no tables": (55, 64, errno.ENOPROTOOPT, "ip_tables"),  # getsockopt, IPT_SO_GET_INFO
}


@pytest.mark.parametrize(("call", "option", "number", "feature"), LACKING.values(), ids=LACKING)
def test_a_kernel_without(namespace: Namespace, call: int, option: int, number: int, feature: str) -> None:
    """Where the kernel cannot have such a list, the question whether there is one is answered with what is missing."""
    script = (
        "import sys\n"
        "from seccomp import forbid\n"
        "from nfkeep.bans.recent_backend import RecentBackend\n"
        "from nfkeep.errors import UnsupportedError\n"
        f"forbid({call}, {{1: 0, 2: {option}}}, {number})\n"  # IPPROTO_IP
        "try:\n"
        "    print(RecentBackend('x').exists())\n"
        "except UnsupportedError as error:\n"
        "    print(error.feature)\n"
    )
    said = namespace.run([sys.executable, "-c", script], env=environment())
    assert said.stdout.split() == [feature]


def test_asking_makes_nothing(namespace: Namespace) -> None:
    """To ask whether a list is there sets no table up."""
    with namespace:
        assert not RecentBackend(NAME).exists()
        assert nfkeep.xtables.tables.in_use(Family.IPV4) == ()


CALLS: dict[str, Callable[[RecentBackend], object]] = {
    "add": lambda backend: backend.add(Kind.HOST4, four(1), 0),
    "add many": lambda backend: backend.add(Kind.HOST4, four(1) + four(2), 0),
    "remove": lambda backend: backend.remove(Kind.HOST4, four(1)),
    "get": lambda backend: backend.get(Kind.HOST4, four(1)),
    "elements": lambda backend: list(backend.elements(Kind.HOST4)),
    "count": lambda backend: backend.count(Kind.HOST4),
    "fills": lambda backend: backend.fills(),
    "flush": lambda backend: backend.flush(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("made_again", [False, True], ids=["gone", "made again"])
def test_a_list_that_somebody_removed(
    opened: Opener, namespace: Namespace, call: Callable[[RecentBackend], object], made_again: bool
) -> None:
    """A list that is gone is an error, even if there is another of its name; to open it makes it work again."""
    backend = opened()
    backend.add(Kind.HOST4, four(1), 0)
    for tool in TOOLS.values():
        namespace.run(f"{tool} -t mangle -F")
    if made_again:
        namespace.run(f"iptables-legacy {SEED}")
    with pytest.raises(ListGoneError) as caught:
        call(backend)
    assert (caught.value.list_name, backend.exists(), backend.in_force()) == (NAME, made_again, False)
    with namespace:
        backend.open(None, 0, 0)
    assert backend.in_force()
    assert backend.add(Kind.HOST4, four(1), 0) == Added(1)
    call(backend)


@pytest.mark.parametrize("call", [*CALLS.values(), RecentBackend.in_force], ids=[*CALLS, "in_force"])
def test_a_list_that_was_never_opened(namespace: Namespace, call: Callable[[RecentBackend], object]) -> None:
    """What is not open is not there."""
    with namespace, pytest.raises(ListGoneError):
        call(RecentBackend(NAME))


def test_a_list_stays_in_its_namespace(opened: Opener, namespace_factory: Callable[[], Namespace]) -> None:
    """Used from other threads and other namespaces, a list is the one of the namespace that it was opened in."""
    home, other = namespace_factory(), namespace_factory()
    backend = opened(where=home)
    opened(where=other)
    done = []

    def work() -> None:
        with other:
            backend.add(Kind.HOST4, four(1) + four(2), 0)
            backend.remove(Kind.HOST4, four(2))
            backend.allow(Kind.HOST4, four(3))
            done.append((backend.in_force(), backend.exists(), list(backend.allowed())))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [(True, True, [(Kind.HOST4, four(3))])]
    assert (in_kernel(home), in_kernel(other)) == ({four(1)}, set())
    with other:
        backend.destroy()
        assert RecentBackend(NAME).exists()
    with home:
        assert not RecentBackend(NAME).exists()


def test_destroy(opened: Opener, namespace: Namespace) -> None:
    """A destroyed list is gone with all its rules, also if a hold keeps it; to destroy it again changes nothing."""
    opened().add(Kind.HOST4, four(1), 0)
    with namespace:
        with nfkeep.transaction("mangle") as tx:
            tx.flush("nfkeep/fail2ban-sshd")
        with nfkeep.transaction("mangle", Family.IPV6) as tx:
            tx.flush("nfkeep/fail2ban-sshd")
        assert hold.held(Family.IPV4) == {("recent", NAME)}
        assert RecentBackend(NAME).exists()
        RecentBackend(NAME).destroy()
        assert not RecentBackend(NAME).exists()
        RecentBackend(NAME).destroy()
        for tool in TOOLS.values():
            assert "nfkeep" not in namespace.run(f"{tool}-save").stdout


def test_a_held_list_is_adopted(opened: Opener, namespace: Namespace) -> None:
    """A list that nothing but a hold keeps is opened with its bans, and needs the hold no more."""
    opened().add(Kind.HOST4, four(1), 0)
    with namespace:
        for family in Family:
            with nfkeep.transaction("mangle", family) as tx:
                tx.flush()
        assert held(opened()) == {four(1)}
        assert (hold.held(Family.IPV4), hold.held(Family.IPV6)) == (frozenset(), frozenset())
        opened().destroy()
        assert not RecentBackend(NAME).exists()


def test_close_leaves_the_bans(opened: Opener, namespace: Namespace) -> None:
    """A closed list is in force with all its bans, and holds no file open."""
    before = len(os.listdir("/proc/self/fd"))
    backend = opened()
    backend.add(Kind.HOST4, four(1), 0)
    backend.close()
    backend.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert in_kernel(namespace) == {four(1)}
    assert opened().in_force()


def test_opening_twice(opened: Opener, namespace: Namespace) -> None:
    """To open what is open changes nothing, and leaves no file behind."""
    backend = opened()
    backend.add(Kind.HOST4, four(1), 0)
    before = len(os.listdir("/proc/self/fd"))
    saved = namespace.run("iptables-legacy -t mangle -S").stdout
    with namespace:
        for _ in range(3):
            assert backend.open(None, 0, 0) == Policy()
    assert namespace.run("iptables-legacy -t mangle -S").stdout == saved
    assert len(os.listdir("/proc/self/fd")) == before
    assert held(backend) == {four(1)}


def test_no_ban_replaces_a_table(opened: Opener, namespace: Namespace) -> None:
    """Whatever is banned and unbanned: a round of `nth` goes on, which any replace would begin anew."""
    namespace.run("iptables-legacy -t mangle -A OUTPUT -p udp -m statistic --mode nth --every 1000 --packet 0")
    backend = opened()
    with namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(1, 6):
            backend.add(Kind.HOST4, four(number), 0)
            backend.remove(Kind.HOST4, four(number - 1))
            backend.flush()
            sock.sendto(b"x", ("127.0.0.1", 9))
        (rule,) = nfkeep.read("mangle").chains["OUTPUT"].rules
    assert rule.counters.packets == 1


def test_a_killed_process_blocks_nobody(opened: Opener, namespace: Namespace) -> None:
    """Who is killed in the middle of a turn leaves the turn to the next."""
    backend = opened()
    script = (
        "from nfkeep.bans.recent_backend import RecentBackend\n"
        "backend = RecentBackend('fail2ban-sshd')\n"
        "backend.open(None, 0, 0)\n"
        "backend._opened.entries._turns.take()\n"
        "print('in', flush=True)\n"
        "input()\n"
    )
    process = namespace.popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    added = []
    thread = threading.Thread(target=lambda: added.append(backend.add(Kind.HOST4, four(1), 0)))
    thread.start()
    with process:
        assert added == []
        process.kill()
    thread.join(5)
    assert added == [Added(1)]
