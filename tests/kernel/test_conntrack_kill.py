"""Deleting the live entries of banned hosts on the real kernel: all of theirs go, and nobody else's."""

from __future__ import annotations

import ctypes
import itertools
import random
import socket
import struct
import threading
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

import attrs
import pytest
from ctnetlink import DUMP, GRE, ICMP, ICMPV6, SCTP, TCP, UDP, Entry, make_entries, read_entries
from interpose import watch_sends

from nfkeep.conntrack import Conntrack
from nfkeep.errors import NfkeepError, PermissionDeniedError, UnsupportedError
from nfkeep.model import Family
from nfkeep.testing import CommandFailedError, living, sysctl, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nfkeep.namespaces import Namespace
    from nfkeep.testing import Connection, Gateway
    from nfkeep.testing.fixtures import Dialer, EchoServerFactory, GatewayFactory

pytestmark = pytest.mark.kernel

PORT, INNER_PORT = 873, 8730
WITH_PORTS = {TCP, UDP, SCTP}
Services = tuple[tuple[int, int, int], ...]


def kill(namespace: Namespace, family: Family, sources: Iterable[object], services: Services = ()) -> int:
    """Hosts and networks as text or objects of ipaddress."""
    networks = [ip_network(str(source)) for source in sources]
    with namespace, Conntrack() as conntrack:
        return conntrack.delete_from(family, [(n.network_address.packed, n.prefixlen) for n in networks], services)


def track(namespace: Namespace) -> None:
    """Connection tracking is off in a network namespace until a rule asks for it."""
    namespace.run(
        "nft -f -",
        input="""table inet track { chain c {
        type filter hook prerouting priority 0; ct state invalid counter
    }\n}\n""",
    )


def belongs(entry: Entry, networks: Iterable[IPv4Network | IPv6Network], services: Services) -> bool:
    """Whether the entry is to go, said a second time."""
    from_there = any(ip_address(entry.source) in network for network in networks)
    return from_there and (
        not services
        or any(
            entry.protocol == protocol
            and ((low, high) == (0, 65535) or (entry.protocol in WITH_PORTS and low <= entry.destination_port <= high))
            for protocol, low, high in services
        )
    )


@attrs.frozen
class Clients:
    """A gateway with a service behind it, and the two clients of that service."""

    network: Gateway
    family: Family
    host: Namespace
    banned: str
    other: str
    dialer: Dialer
    kind: str
    address: object

    def dial(self, source: str, count: int = 3) -> list[Connection]:
        return self.dialer(
            self.network.client, self.family, self.kind, self.address, PORT, count, source=source, timeout=1
        )

    def entries(self) -> list[Entry]:
        return read_entries(self.host, self.family)

    def kill(self, services: Services = ()) -> int:
        return kill(self.host, self.family, [self.banned], services)


@pytest.fixture
def clients(gateway_factory: GatewayFactory, echo_server: EchoServerFactory, dialer: Dialer) -> Callable[..., Clients]:
    """Port 873 of the server or, with NAT, port 873 of the gateway, which goes to port 8730 of the server."""

    def make(family: Family = Family.IPV4, kind: str = "tcp", *, nat: bool = False) -> Clients:
        network = gateway_factory(2)
        track(network.gateway)
        echo_server(network.server, family, kind, network.server_address(family), INNER_PORT if nat else PORT)
        if nat:
            words = "ip" if family is Family.IPV4 else "ip6"
            to = network.server_address(family)
            to = f"{to}:{INNER_PORT}" if family is Family.IPV4 else f"[{to}]:{INNER_PORT}"
            network.gateway.run("nft -f -", input=f"""table inet nat {{
                chain pre {{ type nat hook prerouting priority -100; {kind} dport {PORT} dnat {words} to {to}; }}
                chain post {{ type nat hook postrouting priority 100; oifname srv0 masquerade; }}
            }}\n""")  # fmt: skip
        address = network.gateway_address(family) if nat else network.server_address(family)
        banned, other = map(str, network.client_addresses(family))
        return Clients(network, family, network.gateway, banned, other, dialer, kind, address)

    return make


@pytest.mark.parametrize("nat", [False, True], ids=["routed", "DNAT MASQUERADE"])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("family", Family, ids=str)
def test_the_entries_of_a_banned_host_go_and_no_others(
    clients: Callable[..., Clients], family: Family, kind: str, nat: bool
) -> None:
    """Found by its address and the port as they were before NAT; the other client's flows go on."""
    them = clients(family, kind, nat=nat)
    assert len(them.dial(them.banned)) == 3
    others = them.dial(them.other)
    before = them.entries()
    protocol = TCP if kind == "tcp" else UDP
    if nat:
        assert them.kill(((protocol, INNER_PORT, INNER_PORT),)) == 0
    assert them.kill(((protocol, PORT, PORT),)) == 3
    assert them.entries() == [entry for entry in before if entry.source == them.other]
    assert len(living(others)) == 3
    assert them.kill() == 0


def test_a_rule_for_established_connections_lets_a_banned_host_in_until_then(clients: Callable[..., Clients]) -> None:
    """What it is for: behind `ct state established accept` a ban has no effect on live connections."""
    them = clients(nat=True)
    banned, others = them.dial(them.banned), them.dial(them.other)
    them.host.run("nft -f -", input=f"""table inet ban {{ chain c {{
        type filter hook forward priority 0
        ct state established accept
        ip saddr {them.banned} drop
    }}\n}}\n""")  # fmt: skip
    assert (len(living(banned)), len(living(others))) == (3, 3)
    assert them.kill() == 3
    assert (len(living(banned, timeout=0.3)), len(living(others))) == (0, 3)


@pytest.mark.parametrize("family", Family, ids=str)
def test_a_narrow_range_of_ports_is_not_for_protocols_without(gateway: Gateway, family: Family) -> None:
    """Echo requests go with 0-65535 or where no service is named, whatever the type of message."""
    protocol = ICMP if family is Family.IPV4 else ICMPV6
    client, target = gateway.client_addresses(family)[0], gateway.server_address(family)
    request = bytes((8, 0, 0xF7, 0xFF) if protocol == ICMP else (128, 0, 0, 0)) + bytes(4)
    host = gateway.gateway
    track(host)
    for services in (((protocol, 0, 65535),), ((TCP, 80, 80), (protocol, 0, 65535)), ()):
        with gateway.client, socket.socket(family.value, socket.SOCK_RAW, protocol) as sender:
            sender.sendto(request, (str(target), 0))
        assert wait_until(lambda: [entry.protocol for entry in read_entries(host, family)] == [protocol])
        assert kill(host, family, [client], ((protocol, 0, 65534), (protocol, 8, 8), (TCP, 0, 65535))) == 0
        assert kill(host, family, [client], services) == 1
        assert read_entries(host, family) == []


@pytest.mark.parametrize("protocol", [SCTP, GRE, 99])
def test_other_protocols_go_too(gateway: Gateway, protocol: int) -> None:
    """With ports, with keys, and with nothing that the kernel knows of."""
    host, client = gateway.gateway, gateway.client_addresses(Family.IPV4)[0]
    track(host)
    sysctl(host, "net.netfilter.nf_conntrack_checksum", 0)
    init = struct.pack("!HHII", 5000, 80, 0, 0) + struct.pack("!BBHIIHHI", 1, 0, 20, 7, 65536, 1, 1, 1)
    with gateway.client, socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as sender:
        sender.sendto(init if protocol == SCTP else bytes(32), (str(gateway.server_address(Family.IPV4)), 0))
    assert wait_until(lambda: [entry.protocol for entry in read_entries(host, Family.IPV4)] == [protocol])
    narrow = kill(host, Family.IPV4, [client], ((protocol, 0, 79), (protocol, 81, 65535), (UDP, 0, 65535)))
    assert narrow == 0
    assert kill(host, Family.IPV4, [client], ((protocol, 0, 65535),)) == 1
    assert read_entries(host, Family.IPV4) == []


@pytest.mark.parametrize("zone", ["ct zone set 7", "ct original zone set 7", "ct reply zone set 7"])
def test_entries_of_every_zone_go(clients: Callable[..., Clients], zone: str) -> None:
    """Also of a zone that is that of one direction only."""
    them = clients()
    back = "" if "original" in zone else zone
    them.host.run("nft -f -", input=f"""table inet zones {{ chain c {{
        type filter hook prerouting priority -300
        iifname cli0 ip saddr {them.banned} {"" if "reply" in zone else zone}
        iifname srv0 ip daddr {them.banned} {back}
        iifname cli0 ip saddr {them.banned} {zone if "reply" in zone else ""}
    }}\n}}\n""")  # fmt: skip
    assert len(them.dial(them.banned)) == 3
    others = them.dial(them.other)
    assert sum(entry.source == them.banned for entry in them.entries()) == 3
    assert them.kill() == 3
    assert [entry.source for entry in them.entries()] == [them.other] * 3
    assert len(living(others)) == 3


def test_one_tuple_in_two_zones_is_two_entries(namespace: Namespace) -> None:
    """Each is deleted in its own zone."""
    twins = [Entry(TCP, "10.1.1.1", "10.2.2.2", 5000, 80, zone) for zone in (0, 7, 9)]
    make_entries(namespace, Family.IPV4, twins)
    assert kill(namespace, Family.IPV4, ["10.1.1.1"]) == 3
    assert read_entries(namespace, Family.IPV4) == []


def test_offloaded_flows_leave_the_flowtable(clients: Callable[..., Clients]) -> None:
    """They pass the rules by until they are deleted; from then on a ban has its effect."""
    them = clients(nat=True)
    try:
        them.host.run("nft -f -", input="""table inet fast {
            flowtable ft { hook ingress priority 0; devices = { cli0, srv0 }; }
            chain c { type filter hook forward priority 0; ct state established flow add @ft; }
        }\n""")  # fmt: skip
    except CommandFailedError:
        pytest.skip("this kernel has no flowtables (CONFIG_NF_FLOW_TABLE)")
    banned, others = them.dial(them.banned), them.dial(them.other)
    assert len(living(banned + others)) == 6
    assert [entry.offloaded for entry in them.entries()] == [True] * 6
    them.host.run(f"nft insert rule inet fast c ip saddr {them.banned} drop")
    assert len(living(banned)) == 3
    assert them.kill() == 3
    assert (len(living(banned, timeout=0.3)), len(living(others))) == (0, 3)
    assert all(entry.offloaded for entry in them.entries() if entry.source == them.other)


def random_source(rng: random.Random, family: Family) -> str:
    """One of few addresses, so that networks hold some of them."""
    bits = sum(rng.getrandbits(1) << place for place in (0, 1, 2, 3, 7, 8, 15, 16, 23, 24, 31))
    return str(ip_address(0x0A000000 ^ bits)) if family is Family.IPV4 else str(ip_address((0xFD << 120) ^ bits << 50))


def random_network(rng: random.Random, family: Family) -> IPv4Network | IPv6Network:
    lengths = (32, 32, 31, 28, 25, 24, 17, 8, 1) if family is Family.IPV4 else (128, 128, 127, 78, 77, 70, 64, 40, 3)
    return ip_network(f"{random_source(rng, family)}/{rng.choice(lengths)}", strict=False)


@pytest.mark.parametrize("family", Family, ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_what_goes_is_what_python_says(namespace: Namespace, family: Family, seed: int) -> None:
    """Any hosts and networks, overlapping ones too, and any services, over entries of all kinds in several zones."""
    rng = random.Random(seed)
    icmp = ICMP if family is Family.IPV4 else ICMPV6
    protocols = (TCP, TCP, UDP, SCTP, GRE, icmp)
    far = int(ip_address("192.168.0.0" if family is Family.IPV4 else "fd77::"))
    make_entries(
        namespace,
        family,
        [
            Entry(
                rng.choice(protocols), random_source(rng, family), str(ip_address(far + i)), rng.randrange(1, 65536),
                rng.choice((1, 22, 79, 80, 81, 443, 65535)), rng.choice((0, 0, 7)),
            )
            for i in range(600)
        ],
    )  # fmt: skip
    for count in (1, 2, 3, 12):
        networks = [random_network(rng, family) for _ in range(count)]
        services = tuple(
            (rng.choice(protocols), *rng.choice(((0, 65535), (80, 80), (0, 80), (81, 442), (443, 65535), (0, 0))))
            for _ in range(rng.randrange(4))
        )
        before = read_entries(namespace, family)
        left = [entry for entry in before if not belongs(entry, networks, services)]
        assert kill(namespace, family, networks, services) == len(before) - len(left)
        assert read_entries(namespace, family) == left


def test_of_networks_within_each_other_the_largest_counts(namespace: Namespace) -> None:
    """In whatever order they come, and where all of them begin with the same address."""
    within = ["10.0.0.0/31", "10.0.0.0/24", "10.0.0.0", "10.0.0.128/25"]
    for order in itertools.permutations(within):
        make_entries(namespace, Family.IPV4, [Entry(UDP, f"10.0.{i}.77", "10.2.2.2", 5, 53) for i in (0, 1)])
        assert kill(namespace, Family.IPV4, order) == 1
        assert kill(namespace, Family.IPV4, ["10.0.1.77"]) == 1


def test_the_whole_table_can_go_and_nothing_can(namespace: Namespace) -> None:
    """0.0.0.0/0 means one family; no source means no entry."""
    make_entries(namespace, Family.IPV4, [Entry(UDP, f"10.0.0.{i}", "10.2.2.2", 5, 53) for i in range(1, 200)])
    make_entries(namespace, Family.IPV6, [Entry(UDP, "fd00::1", "fd00::2", 5, 53)])
    assert kill(namespace, Family.IPV4, []) == 0
    assert kill(namespace, Family.IPV4, ["0.0.0.0/0"]) == 199
    assert len(read_entries(namespace, Family.IPV6)) == 1
    assert kill(namespace, Family.IPV6, ["::/0"]) == 1


class Sends:
    """Looks at what goes to the kernel: how many dumps, how many deletions in how many sends, and with what filter."""

    def __init__(
        self, *, ignore_filter: bool = False, refuse_first: bool = False, between: Callable[[], None] | None = None
    ) -> None:
        self.dumps = self.filtered = self.deletions = self.batches = 0
        self._ignore_filter, self._refuse_first, self._between = ignore_filter, refuse_first, between

    def __call__(self, data: memoryview) -> None:
        kinds, at = [], 0
        while at < len(data):
            length, kind, flags = struct.unpack_from("=IHH", data, at)
            kinds.append((kind & 0xFF, flags))
            at += length
        if kinds[0][1] & DUMP == DUMP:
            self.dumps += 1
            head = struct.pack("=HH", 12, 25 | 0x8000)  # CTA_FILTER
            at = bytes(data).find(head)
            self.filtered += at >= 0
            if self._ignore_filter and at >= 0:
                data[at + 2 : at + 4] = struct.pack("=H", 99 | 0x8000)  # what a kernel does not know it passes over
            return
        assert {kind for kind, _ in kinds} == {2}  # IPCTNL_MSG_CT_DELETE
        if self._between and not self.batches:
            self._between()
        if self._refuse_first and not self.batches:
            data[4:6] = struct.pack("=H", 0x100)  # IPCTNL_MSG_CT_NEW, with CTA_STATUS instead of CTA_ID: be IPS_DYING,
            at = bytes(data).find(struct.pack("=HH", 8, 12))
            data[at : at + 8] = struct.pack("=HHBBBB", 8, 3, 0, 0, 2, 0)  # which ctnetlink answers with EBUSY
        self.batches += 1
        self.deletions += len(kinds)


def test_a_thousand_hosts_cost_one_dump_and_few_sends(namespace: Namespace) -> None:
    """Of 5,000 hosts with a connection each a thousand are banned: theirs go, the others' stay."""
    hosts = [f"10.{i >> 8}.{i & 255}.7" for i in range(5000)]
    make_entries(namespace, Family.IPV4, [Entry(TCP, host, "192.0.2.1", 40000, 443) for host in hosts])
    banned = random.Random(1).sample(hosts, 1000)
    sends = Sends()
    assert watch_sends(lambda: kill(namespace, Family.IPV4, [*banned, *banned[:5]]), sends) == 1000
    assert sorted(entry.source for entry in read_entries(namespace, Family.IPV4)) == sorted({*hosts} - {*banned})
    assert (sends.dumps, sends.filtered, sends.deletions) == (1, 0, 1000)
    assert sends.batches <= 10


SEVEN = [f"10.0.0.{i}" for i in range(1, 8)]


@pytest.fixture
def seven(namespace: Namespace) -> Namespace:
    """Seven hosts with an entry each."""
    make_entries(namespace, Family.IPV4, [Entry(TCP, host, "192.0.2.1", 40000, 443) for host in SEVEN])
    return namespace


def sources(namespace: Namespace) -> list[str]:
    return sorted(entry.source for entry in read_entries(namespace, Family.IPV4))


@pytest.mark.parametrize("services", [(), ((TCP, 443, 443),), ((TCP, 0, 65535),), ((TCP, 22, 22), (TCP, 443, 443))])
def test_for_a_single_host_the_kernel_filters(seven: Namespace, services: Services) -> None:
    """One dump with CTA_FILTER, one deletion."""
    sends = Sends()
    assert watch_sends(lambda: kill(seven, Family.IPV4, SEVEN[:1], services), sends) == 1
    assert (sends.dumps, sends.filtered, sends.deletions) == (1, 1, 1)
    assert sources(seven) == SEVEN[1:]


def test_a_kernel_that_takes_no_notice_of_the_filter_loses_no_entry_of_others(seven: Namespace) -> None:
    """Before Linux 5.8 the answer is the whole table, and that one answer does for the other host as well."""
    sends = Sends(ignore_filter=True)
    assert watch_sends(lambda: kill(seven, Family.IPV4, SEVEN[2:4]), sends) == 2
    assert (sends.dumps, sends.filtered, sends.deletions) == (1, 1, 2)
    assert sources(seven) == [*SEVEN[:2], *SEVEN[4:]]


def test_an_entry_that_went_meanwhile_is_no_fault_and_a_new_one_like_it_stays(seven: Namespace) -> None:
    """Between the dump and the deletion one ends, and another ends and begins again under another id."""

    def between() -> None:
        for host in SEVEN[:2]:
            seven.run(f"conntrack -D -s {host}")
        # the kernel makes an id of the place in memory, too, which the next entry would have again
        fillers = [Entry(UDP, f"10.9.{i}.1", "192.0.2.9", 1, 2) for i in range(64)]
        make_entries(seven, Family.IPV4, [*fillers, Entry(TCP, SEVEN[0], "192.0.2.1", 40000, 443)])

    (old,) = (entry.identity for entry in read_entries(seven, Family.IPV4) if entry.source == SEVEN[0])
    assert watch_sends(lambda: kill(seven, Family.IPV4, SEVEN[:3]), Sends(between=between)) == 1
    (new,) = (entry for entry in read_entries(seven, Family.IPV4) if entry.source in SEVEN[:3])
    assert (new.source, new.identity != old) == (SEVEN[0], True)


def test_where_offloaded_entries_cannot_be_deleted_the_others_are(seven: Namespace) -> None:
    """A kernel that answers EBUSY, as before 6.4: UnsupportedError says so when the rest is done."""
    with pytest.raises(UnsupportedError) as caught:
        watch_sends(lambda: kill(seven, Family.IPV4, SEVEN[:4]), Sends(refuse_first=True))
    assert caught.value.feature == "deletion of offloaded connections"
    left = sources(seven)
    assert len(left) == 4
    assert set(left) > {*SEVEN[4:]}


def test_without_the_right_nothing_is_deleted(seven: Namespace) -> None:
    """PermissionDeniedError, also for a socket that root has opened."""
    caught: list[BaseException] = []

    def as_nobody(conntrack: Conntrack) -> None:
        ctypes.CDLL(None).syscall(117, -1, 65534, -1)  # setresuid, of this thread alone
        try:
            conntrack.delete_from(Family.IPV4, [(b"\x0a\0\0\1", 32)])
        except NfkeepError as error:
            caught.append(error)

    with seven, Conntrack() as conntrack:
        thread = threading.Thread(target=as_nobody, args=(conntrack,))
        thread.start()
        thread.join()
    assert [type(error) for error in caught] == [PermissionDeniedError]
    assert sources(seven) == SEVEN


WRONG: dict[str, tuple[tuple[bytes, int], tuple[int, int, int]]] = {
    "an address of the other family": ((bytes(16), 32), (6, 0, 65535)),
    "an address too short": ((bytes(3), 24), (6, 0, 65535)),
    "a prefix too long": ((bytes(4), 33), (6, 0, 65535)),
    "a prefix below 0": ((bytes(4), -1), (6, 0, 65535)),
    "a port too high": ((bytes(4), 32), (6, 0, 65536)),
    "ports the wrong way round": ((bytes(4), 32), (6, 81, 80)),
    "a protocol too high": ((bytes(4), 32), (256, 0, 65535)),
}


@pytest.mark.parametrize(("source", "service"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused(seven: Namespace, source: tuple[bytes, int], service: tuple[int, int, int]) -> None:
    """ValueError, before anything is deleted."""
    with seven, Conntrack() as conntrack, pytest.raises(ValueError):
        conntrack.delete_from(Family.IPV4, [(b"\x0a\0\0\1", 32), source], [service])
    assert sources(seven) == SEVEN
