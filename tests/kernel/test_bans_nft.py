"""Ban lists in nftables, seen from outside: which packets pass; and from inside: what the nft command says is there."""

from __future__ import annotations

import errno
import ipaddress
import logging
import math
import os
import re
import sys
from array import array
from typing import TYPE_CHECKING

import pytest
from banned import Flood

import nfkeep
from nfkeep import BanList, Family
from nfkeep.bans import nft_sets
from nfkeep.bans.banlist import Reconciled
from nfkeep.bans.values import Kind
from nfkeep.nft import replace
from nfkeep.nft.batch import BatchSocket
from nfkeep.testing import Gateway, Namespace, dial, living

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from nfkeep.nft.elements import SetHandle
    from nfkeep.testing.fixtures import Dialer, EchoServerFactory, GatewayFactory

pytestmark = pytest.mark.kernel

FAMILIES = pytest.mark.parametrize("family", list(Family), ids=str)
BACKLOG = 2000  # packets: twice what waits for a processor at the most, net.core.netdev_max_backlog


@pytest.fixture
def make_list(request: pytest.FixtureRequest) -> Iterator[Callable[..., BanList]]:
    """Open lists in a namespace; all are closed at the end."""
    opened: list[BanList] = []

    def make(namespace: Namespace, name: str = "jail", **options: object) -> BanList:
        bans = BanList(name, "nft", **options)  # type: ignore[arg-type]  # as the test gives them
        with namespace:
            opened.append(bans.open())
        return bans

    yield make
    for bans in opened:
        bans.close()


@pytest.fixture
def gateway(gateway_factory: GatewayFactory) -> Gateway:
    """A client with two addresses, a gateway, a server."""
    return gateway_factory(2)


@pytest.fixture(params=["in place", "again"])
def renewal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to renew a timeout: that of this kernel, and that of kernels before 6.12."""
    if request.param == "again":
        monkeypatch.setattr(nft_sets, "_renewal", nft_sets._AGAIN)
    return str(request.param)


def flood(net: Gateway, family: Family, *, forwarded: bool) -> Flood:
    """From the client to the gateway, or through it, with DNAT to another port, to the server."""
    client = net.client_addresses(family)[1]  # the first is a gateway, and never banned
    gateway = net.gateway_address(family)
    if not forwarded:
        return Flood(family, (net.client, client), gateway, 5000, (net.gateway, gateway, 5000))
    server = net.server_address(family)
    to = f"[{server}]:6000" if family is Family.IPV6 else f"{server}:6000"
    kind = "ip6" if family is Family.IPV6 else "ip"
    nat = f"type nat hook prerouting priority dstnat; udp dport 5000 dnat to {to};"
    net.gateway.run("nft -f -", input=f"table {kind} n {{ chain c {{ {nat} }}; }}")
    return Flood(family, (net.client, client), gateway, 5000, (net.server, server, 6000))


@FAMILIES
@pytest.mark.parametrize("forwarded", [False, True], ids=["input", "forward"])
@pytest.mark.parametrize("banned", ["host", "network"])
@pytest.mark.parametrize("ports", [None, ["5000/udp"]], ids=["all", "ports"])
def test_next_packet(
    gateway: Gateway,
    make_list: Callable[..., BanList],
    family: Family,
    forwarded: bool,
    banned: str,
    ports: list[str] | None,
) -> None:
    """Of a flood not one packet passes that was sent after `ban` returned; after `unban` they pass again."""
    client = gateway.client_addresses(family)[1]
    bits = 64 if family is Family.IPV6 else 24
    address = client if banned == "host" else ipaddress.ip_network(f"{client}/{bits}", strict=False)
    bans = make_list(gateway.gateway, ports=ports)
    # the gateway itself is in that network, and stays reachable: the list looks at who sends
    with flood(gateway, family, forwarded=forwarded) as packets:
        packets.wait_for_arrivals()
        bans.ban(address, timeout=600)
        begun = packets.begun
        packets.wait_for_more(1000)
        ended = packets.begun
        packets.wait_for_more(BACKLOG)  # what was sent before `ended` has met the list, and waits in no queue for that
        bans.unban(address)
        packets.wait_for_arrivals()
    assert {number for number in packets.later_ones(begun) if number < ended} == set()


def test_renewing_lets_nothing_pass(gateway: Gateway, make_list: Callable[..., BanList], renewal: str) -> None:
    """Renewing a timeout 2,000 times, with the same and with other timeouts, and in bulk, never opens a gap."""
    bans = make_list(gateway.gateway)
    bans.ban("192.0.2.1")  # the kernel's way is known from here on
    client = str(gateway.client_addresses(Family.IPV4)[1])
    with flood(gateway, Family.IPV4, forwarded=False) as packets:
        packets.wait_for_arrivals()
        bans.ban(client, timeout=600)
        begun = packets.begun
        for number in range(1000):
            bans.ban(client, timeout=600 + number % 2)
        for _ in range(100):
            bans.ban_many([client, "192.0.2.1", "198.51.100.0/24"], timeout=700)
        packets.wait_for_more(1000)
    assert packets.later_ones(begun) == set()
    [ban] = [each for each in bans if str(each.address) == client]
    assert ban.timeout == 700


def test_timeouts(namespace: Namespace, make_list: Callable[..., BanList], renewal: str) -> None:
    """A ban lasts as long as was said last, from then on: longer, shorter, the same once more, for ever, and back."""
    bans = make_list(namespace)
    for timeout in (600, 3600, 60, 60, math.inf, 600, 0.5 + 600):
        for address in ("203.0.113.9", "2001:db8::/64"):
            bans.ban(address, timeout)
        for ban in bans:
            if math.isinf(timeout):
                assert (ban.timeout, ban.expires) == (None, None)
            else:
                assert ban.timeout == timeout
                assert ban.expires is not None
                assert timeout - 5 < ban.expires <= timeout
    bans.ban("203.0.113.9", 0.2)
    nfkeep_gone = [ban for ban in bans if ban.address.version == 4]
    assert all(ban.expires is not None and ban.expires <= 0.2 for ban in nfkeep_gone)


def test_comments(namespace: Namespace, make_list: Callable[..., BanList]) -> None:
    """A comment is kept and listed; a ban without one leaves it, where the kernel can; what ends quotes is refused."""
    bans = make_list(namespace)
    bans.ban("203.0.113.9", 600, comment="Grüße: too many logins")
    bans.ban("203.0.113.9", 900)
    [ban] = bans
    in_place = nft_sets._renewal is nft_sets._IN_PLACE
    assert (ban.comment, ban.timeout) == ("Grüße: too many logins" if in_place else "", 900)
    bans.ban("203.0.113.9", 900, comment="Grüße: too many logins")
    assert 'comment "Grüße: too many logins"' in namespace.run("nft list ruleset").stdout
    bans.ban("203.0.113.9", comment="another")
    assert [(ban.comment, ban.timeout) for ban in bans] == [("another", None)]
    for bad in ('a"; drop; #', "a\nb", "a\\", "\x07", "x" * 128, "ü" * 64):
        with pytest.raises(nfkeep.InvalidBanError):
            bans.ban("203.0.113.10", comment=bad)
    assert len(bans) == 1


def test_networks_overlap(namespace: Namespace, make_list: Callable[..., BanList]) -> None:
    """Networks that overlap, and hosts in them, are bans of their own: each goes without taking another with it."""
    bans = make_list(namespace)
    wanted = ["10.0.0.0/8", "10.0.0.0/16", "10.1.0.0/16", "10.1.2.3", "10.1.2.0/31", "0.0.0.0/1", "2001:db8::/32"]
    bans.ban_many([*wanted, "2001:db8::/128", "2001:db8::/127"])
    assert {str(ban.address) for ban in bans} == {*wanted, "2001:db8::", "2001:db8::/127"}
    assert {str(ban.address) for ban in bans.covering("10.1.2.3")} == {
        "0.0.0.0/1",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.3",
    }
    assert {str(ban.address) for ban in bans.covering("10.1.0.0/16")} == {"0.0.0.0/1", "10.0.0.0/8", "10.1.0.0/16"}
    assert bans.unban("10.0.0.0/8")
    assert not bans.unban("10.0.0.0/8")
    assert "10.0.0.0/16" in bans
    assert "10.0.0.0/9" not in bans
    assert bans.unban_many(wanted) == len(wanted) - 1
    assert {str(ban.address) for ban in bans} == {"2001:db8::", "2001:db8::/127"}


def test_adopted(namespace: Namespace, make_list: Callable[..., BanList]) -> None:
    """A second one with the name finds bans, timeouts and policy as they are, and nothing in the kernel changes."""
    first = make_list(
        namespace, ports=["22/tcp", "icmp"], action="reject", reject_with="tcp-reset", allow=["192.0.2.1"]
    )
    first.ban_many([("203.0.113.9", 600), "2001:db8::/64", "203.0.113.0/24"])
    first.close()
    before = namespace.run("nft -n list ruleset").stdout
    second = make_list(namespace)
    assert second.policy == first.policy
    assert str(second.policy) == "reject:tcp-reset icmp 22/tcp"
    assert {str(ban.address) for ban in second} == {"203.0.113.9", "2001:db8::/64", "203.0.113.0/24"}
    assert [str(each) for each in second.allowed()] == ["192.0.2.1"]
    assert without_times(namespace.run("nft -n list ruleset").stdout) == without_times(before)
    generation = BatchSocket.generation
    with namespace:
        asking = BatchSocket()
    first_seen = generation(asking)
    second.open()
    make_list(namespace).close()
    assert generation(asking) == first_seen  # not even an empty transaction
    asking.close()


def test_reloaded(namespace: Namespace, make_list: Callable[..., BanList]) -> None:
    """What `nft list ruleset` said can be loaded again, and is the list as it was."""
    bans = make_list(namespace, ports=["1000-2000/udp", "53", "icmpv6"], kill=True, allow=["192.0.2.0/28"])
    bans.ban_many([("203.0.113.9", 600), "2001:db8::/64"])
    saved = namespace.run("nft list ruleset").stdout
    namespace.run("nft -f -", input=f"flush ruleset\n{saved}")
    assert bans.in_force()
    assert {(str(ban.address), ban.timeout) for ban in bans} == {("203.0.113.9", 600), ("2001:db8::/64", None)}
    again = make_list(namespace)
    assert str(again.policy) == "drop 53/tcp 53/udp 1000-2000/udp icmpv6 kill"
    assert [str(each) for each in again.allowed()] == ["192.0.2.0/28"]


def test_gone(namespace: Namespace, make_list: Callable[..., BanList]) -> None:
    """When another program has flushed the ruleset, every use says so, and `open` makes the list anew."""
    bans = make_list(namespace, ports=["22/tcp"])
    bans.ban("203.0.113.9")
    namespace.run("nft flush ruleset")
    uses: list[Callable[[], object]] = [
        lambda: bans.ban("203.0.113.9"),
        lambda: bans.ban("2001:db8::/64", 60),
        lambda: bans.ban_many(["203.0.113.9", "203.0.113.10"]),
        lambda: bans.unban("203.0.113.9"),
        lambda: "203.0.113.9" in bans,
        lambda: len(bans),
        lambda: list(bans),
        lambda: bans.flush(),
    ]
    for use in uses:
        with pytest.raises(nfkeep.ListGoneError):
            use()
    assert not bans.exists()
    assert not bans.in_force()
    bans.open()
    bans.ban("203.0.113.9")
    assert bans.in_force()
    assert str(bans.policy) == "drop 22/tcp"
    assert len(bans) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "flush chain inet nfkeep lists",
        "flush chain inet nfkeep input",
        "flush chain inet nfkeep allowed",
        "flush chain inet nfkeep ban/jail",
        "flush chain inet nfkeep ban/jail/hit",
        "flush table inet nfkeep",
    ],
)
def test_mended(gateway: Gateway, make_list: Callable[..., BanList], damage: str) -> None:
    """Rules that somebody flushed are noticed by `in_force` and put back by `open`; the bans are as before."""
    client = gateway.client_addresses(Family.IPV4)[1]
    bans = make_list(gateway.gateway)
    bans.ban(client)
    bans.ban("198.51.100.0/24")
    gateway.gateway.run(f"nft {damage}")
    assert not bans.in_force()
    bans.open()
    assert bans.in_force()
    assert len(bans) == 2
    with flood(gateway, Family.IPV4, forwarded=False) as packets:
        packets.wait_for_more(500)
    assert packets.arrived == set()


def test_removed(namespace: Namespace, make_list: Callable[..., BanList]) -> None:
    """`remove` takes down this list and no other, and the last one takes the table with it; it may be called twice."""
    namespace.run("nft add table inet other")
    one, other = make_list(namespace, "one"), make_list(namespace, "two")
    one.ban_many(["203.0.113.9", "2001:db8::/64"])
    other.ban("203.0.113.10")
    one.remove()
    assert "one" not in namespace.run("nft list ruleset").stdout
    assert other.in_force()
    assert len(other) == 1
    with namespace:
        one.remove()
        BanList("two", "nft").remove()
    assert namespace.run("nft list ruleset").stdout == "table inet other {\n}\n"


def test_allowed(gateway: Gateway, make_list: Callable[..., BanList]) -> None:
    """The allow list wins over any ban; to ban what is in it is an error, a network around it is not."""
    other, client = map(str, gateway.client_addresses(Family.IPV4))
    bans = make_list(gateway.gateway)
    bans.ban_many([client, "10.9.0.0/24"])
    with flood(gateway, Family.IPV4, forwarded=False) as packets:
        packets.wait_for_more(200)
        bans.allow(f"{client}/32")
        packets.wait_for_arrivals()
        begun = packets.begun
        assert bans.disallow(client) == 1
        bans.allow("10.9.0.0/31")  # not the client
        packets.wait_for_more(1000)
    assert len(packets.later_ones(begun)) < 1000
    bans.allow("10.9.0.0/16")
    for address in (client, "10.9.1.0/24", f"::ffff:{client}"):
        with pytest.raises(nfkeep.AllowedAddressError, match=r"10\.9\.0\.0/16"):
            bans.ban(address, force=True)
    assert other in map(str, bans.allowed())  # as a gateway
    bans.ban("10.8.0.0/15")


def test_who_must_not_be_banned(
    gateway: Gateway, make_list: Callable[..., BanList], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses of the host and its gateways are refused always; the SSH peer and everybody unless by force."""
    gateway.server.run("ip route add 198.18.0.0/15 nexthop via 10.8.0.1 nexthop via 10.8.0.9")
    monkeypatch.setenv("SSH_CONNECTION", "::ffff:198.51.100.7 50000 10.8.0.2 22")
    bans = make_list(gateway.server)
    for address in ("10.8.0.2", "fd08::2", "127.0.0.1", "10.8.0.1", "10.8.0.9", "fd08::1", "::ffff:10.8.0.1"):
        for force in (False, True):
            with pytest.raises(nfkeep.AllowedAddressError):
                bans.ban(address, force=force)
    for address in ("198.51.100.7", "198.51.100.0/24", "0.0.0.0/0", "::/0"):
        with pytest.raises(nfkeep.AllowedAddressError, match="force"):
            bans.ban(address)
        with pytest.raises(nfkeep.RefusedBansError):
            bans.ban_many([address])
        assert address not in bans
        bans.ban(address, force=True)
        assert bans.unban(address)


@FAMILIES
def test_gateway_in_a_banned_network(
    gateway: Gateway, make_list: Callable[..., BanList], echo_server: EchoServerFactory, dialer: Dialer, family: Family
) -> None:
    """A network that the host's gateway is in can be banned, and the gateway itself goes on."""
    server = gateway.server_address(family)
    echo_server(gateway.server, family, "tcp", server, 80)
    bans = make_list(gateway.server)
    bans.ban(ipaddress.ip_network(f"{server}/{64 if family is Family.IPV6 else 24}", strict=False))
    own_gateway = str(gateway.gateway_server_side_address(family))
    assert own_gateway in map(str, bans.allowed())
    bans.allow(own_gateway)
    with gateway.server:
        bans.open()
    listed = gateway.server.run("nft list table inet nfkeep").stdout
    assert f"{own_gateway} timeout" not in listed  # what somebody allows stays so, also if it is a gateway
    bans.disallow(own_gateway)
    with gateway.server:
        bans.open()
    bans.ban_many([f"{each}/32" for each in gateway.client_addresses(Family.IPV4)])
    bans.ban_many([f"{each}/128" for each in gateway.client_addresses(Family.IPV6)])
    assert len(dialer(gateway.gateway, family, "tcp", server, 80, 1, timeout=1)) == 1
    assert dialer(gateway.client, family, "tcp", server, 80, 1, timeout=0.3) == []
    bans.remove()
    assert gateway.server.run("nft list ruleset").stdout == ""


def test_ports_and_actions(gateway: Gateway, make_list: Callable[..., BanList], echo_server: EchoServerFactory) -> None:
    """A list for some ports leaves the others alone; one that counts lets all pass; one that rejects answers."""
    address = gateway.gateway_address(Family.IPV4)
    client = gateway.client_addresses(Family.IPV4)[1]
    for port in (22, 80):
        echo_server(gateway.gateway, Family.IPV4, "tcp", address, port)

    def admitted(port: int) -> bool:
        made = dial(gateway.client, Family.IPV4, "tcp", address, port, 1, source=client, timeout=0.3)
        for connection in made:
            connection.abort()
        return bool(made)

    bans = make_list(gateway.gateway, ports=["22/tcp"], action="count")
    bans.ban(client)
    assert (admitted(22), admitted(80)) == (True, True)
    assert 'counter packets 0 bytes 0 comment "22/tcp"' not in gateway.gateway.run("nft list ruleset").stdout
    make_list(gateway.gateway, ports=["22/tcp"], action="drop")
    assert (admitted(22), admitted(80)) == (False, True)
    make_list(gateway.gateway, ports=[], action="reject", reject_with="tcp-reset")
    assert (admitted(22), admitted(80)) == (False, False)
    gateway.client.run("nft add table inet t")
    gateway.client.run("nft 'add chain inet t c { type filter hook input priority 0; }'")
    gateway.client.run("nft add rule inet t c tcp flags rst counter")
    gateway.client.run("nft add rule inet t c icmp type destination-unreachable icmp code admin-prohibited counter")
    assert not admitted(22)
    make_list(gateway.gateway, ports=["22/tcp"], action="reject", reject_with="admin-prohibited")
    assert (admitted(22), admitted(80)) == (False, True)
    seen = gateway.client.run("nft list chain inet t c").stdout
    assert "packets 0" not in seen, seen


def test_kill(gateway: Gateway, make_list: Callable[..., BanList], echo_server: EchoServerFactory) -> None:
    """With `kill` a ban ends what the host has open to the list's ports, by conntrack too, and nothing else."""
    address = gateway.gateway_address(Family.IPV4)
    other, client = gateway.client_addresses(Family.IPV4)
    for port in (22, 80):
        echo_server(gateway.gateway, Family.IPV4, "tcp", address, port)
    gateway.gateway.run("nft add table inet t")  # conntrack works where something asks for it
    gateway.gateway.run("nft 'add chain inet t c { type filter hook input priority 0; }'")
    gateway.gateway.run("nft add rule inet t c ct state established counter")
    bans = make_list(gateway.gateway, ports=["22/tcp"], kill=True)
    opened = {
        (source, port): dial(gateway.client, Family.IPV4, "tcp", address, port, 1, source=source)[0]
        for source in (client, other)
        for port in (22, 80)
    }

    def tracked() -> set[tuple[object, int]]:
        listed = gateway.gateway.run("conntrack -L -p tcp").stdout
        return {
            (source, port)
            for (source, port), connection in opened.items()
            if f"src={source} dst={address} sport={connection.local[1]} dport={port}" in listed
        }

    assert tracked() == set(opened)
    bans.ban(client)
    left = tracked()
    assert left == {(client, 80), (other, 22), (other, 80)}
    alive = living(opened.values())
    assert {key for key, connection in opened.items() if connection in alive} == left
    for connection in opened.values():
        connection.abort()


@pytest.mark.parametrize("way", ["in place", "swap"])
def test_grows(
    gateway: Gateway,
    make_list: Callable[..., BanList],
    way: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A set that fills up is grown and says so; nothing falls out, no timeout changes, no packet passes meanwhile."""
    if way == "swap":  # as on kernels that cannot change the size of a set
        monkeypatch.setattr(nft_sets, "grow", replace.swap)
    client = str(gateway.client_addresses(Family.IPV4)[1])
    bans = make_list(gateway.gateway, size=100)
    bans.ban(client, 600, comment="kept")
    with flood(gateway, Family.IPV4, forwarded=False) as packets, caplog.at_level(logging.WARNING, "nfkeep.bans"):
        packets.wait_for_more(100)
        many = [f"172.16.{number >> 8}.{number & 255}" for number in range(5000)]
        for address in many[:1000]:
            bans.ban(address)
        bans.ban_many([(address, 3000.0) for address in many[1000:]])
        packets.wait_for_more(100)
    assert packets.arrived == set()
    assert len(bans) == 5001
    [kept] = bans.covering(client)
    assert (kept.timeout, kept.comment) == (600, "kept")
    [fill] = [fill for fill in bans.fills() if fill.name.endswith("/v4")]
    assert fill.used == 5001
    assert fill.used <= fill.size * 0.8
    assert "80 of 100" in caplog.text
    assert bans.in_force()


def test_grows_among_others(namespace: Namespace, make_list: Callable[..., BanList]) -> None:
    """Two that add to one list by turns each see that the other has filled it."""
    one, other = make_list(namespace, size=64), make_list(namespace, size=64)
    for number in range(500):
        one.ban(f"172.16.{number >> 8}.{number & 255}")
        other.ban(f"172.17.{number >> 8}.{number & 255}")
    assert len(one) == 1000


@pytest.mark.parametrize("way", ["in place", "swap"])
def test_somebody_grew_it_first(
    namespace: Namespace, make_list: Callable[..., BanList], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be too small, as another process made it larger and filled it meanwhile, is not put in its place."""
    one, other = make_list(namespace, size=64), make_list(namespace, size=64)
    real = replace.grow if way == "in place" else replace.swap
    sizes = []

    def late(rules: BatchSocket, table: str, handle: SetHandle, name: str, size: int, *rest: Any) -> int:
        monkeypatch.setattr(nft_sets, "grow", real)
        other.ban_many([f"172.17.{number >> 8}.{number & 255}" for number in range(4 * size)])
        sizes.append((size, real(rules, table, handle, name, size, *rest)))
        return sizes[0][1]

    monkeypatch.setattr(nft_sets, "grow", late)
    one.ban_many([f"172.16.0.{number}" for number in range(60)])
    [(wanted, made)] = sizes
    assert made > 4 * wanted
    assert len(one) == 60 + 4 * wanted
    assert one.in_force()


def test_full(namespace: Namespace, make_list: Callable[..., BanList], monkeypatch: pytest.MonkeyPatch) -> None:
    """A list at its largest refuses what is new, by address, renews what is there, and drops nothing."""
    monkeypatch.setattr(nft_sets, "LARGEST", 50)
    bans = make_list(namespace, size=50)
    inside = [f"172.16.0.{number}" for number in range(50)]
    bans.ban_many(inside)
    with pytest.raises(nfkeep.ListFullError):
        bans.ban("172.17.0.1")
    bans.ban(inside[7], 600)
    with pytest.raises(nfkeep.RefusedBansError) as raised:
        bans.ban_many(["172.17.0.1", "2001:db8::1"])
    assert [address for address, _ in raised.value.refused] == ["172.17.0.1"]
    assert {str(ban.address) for ban in bans} == {*inside, "2001:db8::1"}


def test_without_rights(namespace: Namespace) -> None:
    """Who has no CAP_NET_ADMIN gets one clear error."""
    script = (
        "import nfkeep\n"
        "try: nfkeep.BanList('x', 'nft').open()\n"
        "except nfkeep.PermissionDeniedError as error: print(error.needed)\n"
    )
    done = namespace.run(["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", script])
    assert "CAP_NET_ADMIN" in done.stdout


def test_after_a_fork(namespace: Namespace, make_list: Callable[..., BanList]) -> None:
    """Parent and child go on with the same object, at the same time, and get each other's answers never."""
    bans = make_list(namespace)
    bans.ban("203.0.113.1")
    child = os.fork()
    first = "10.1" if child else "10.2"
    try:
        if not child:
            namespace.enter()  # a child that opens sockets anew does so where it is
        for number in range(2000):
            bans.ban(f"{first}.{number >> 8}.{number & 255}", 600)
            if number % 3 == 0:
                assert bans.unban(f"{first}.{number >> 8}.{number & 255}")
    except BaseException:
        if not child:
            os._exit(1)
        raise
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(bans) == 1 + 2 * (2000 - 667)


def test_reconcile(namespace: Namespace, make_list: Callable[..., BanList]) -> None:
    """The list becomes what is wanted with the fewest changes; what is right already is not touched."""
    bans = make_list(namespace)
    bans.ban_many(["203.0.113.1", ("203.0.113.2", 600), ("203.0.113.3", 600), "203.0.113.0/24", "2001:db8::1"])
    with namespace:
        asking = BatchSocket()
    done = bans.reconcile(["203.0.113.1", "203.0.113.2", ("203.0.113.3", 60), ("203.0.113.4", None), "2001:db8::2"])
    assert (done.added, done.renewed, done.removed) == (2, 1, 2)
    assert {(str(ban.address), ban.timeout) for ban in bans} == {
        ("203.0.113.1", None),
        ("203.0.113.2", 600),
        ("203.0.113.3", 60),
        ("203.0.113.4", None),
        ("2001:db8::2", None),
    }
    assert bans.reconcile(list(bans)).added == 0
    generation = asking.generation()
    assert bans.reconcile([ban.address for ban in bans]) == Reconciled(0, 0, 0)
    assert asking.generation() == generation
    asking.close()
    for bad in ("nonsense", ("203.0.113.10", -1), ("203.0.113.10", 1e30)):
        with pytest.raises(nfkeep.NfkeepError):
            bans.reconcile(["203.0.113.9", bad])
    assert len(bans) == 5


def test_elements_refuse_in_one_piece(namespace: Namespace, make_list: Callable[..., BanList]) -> None:
    """A batch that the kernel refuses leaves nothing of itself behind."""
    bans = make_list(namespace, size=10)
    handle = bans._backend()._sets()._set("v4").handle  # type: ignore[attr-defined]  # under the hood, on purpose
    keys = b"".join(number.to_bytes(4, "big") for number in range(20))
    assert handle.change([nft_sets.ADD], keys, array("Q", [0] * 20)) == errno.ENFILE
    assert handle.count() == 0
    assert list(bans._backend().elements(Kind.HOST4)) == []


def without_times(listing: str) -> str:
    """A listing without what is left of each timeout."""
    return re.sub(r"expires \S+", "expires", listing)


def test_connection_limits(
    gateway: Gateway, make_list: Callable[..., BanList], echo_server: EchoServerFactory, dialer: Dialer
) -> None:
    """1,000 bans leave the counts of connlimit alone, and a transaction does not mind the table that they are in."""
    address = gateway.gateway_address(Family.IPV4)
    client = gateway.client_addresses(Family.IPV4)[1]
    echo_server(gateway.gateway, Family.IPV4, "tcp", address, 873)
    limit = "-A INPUT -p tcp --syn --dport 873 -m connlimit --connlimit-above 10 -j REJECT --reject-with tcp-reset"
    gateway.gateway.run(f"iptables-legacy {limit}")
    assert len(dialer(gateway.client, Family.IPV4, "tcp", address, 873, 14, source=client)) == 10
    bans = make_list(gateway.gateway)
    for number in range(1000):
        bans.ban(f"198.51.{100 + number // 250}.{number % 250}")
    assert dialer(gateway.client, Family.IPV4, "tcp", address, 873, 14, source=client) == []
    with gateway.gateway, nfkeep.transaction() as tx:
        tx.append("INPUT", "-s 192.0.2.1 -j DROP")
    assert {outcome.kind for outcome in tx.report.outcomes} == {"connlimit"}
    assert dialer(gateway.client, Family.IPV4, "tcp", address, 873, 14, source=client) == []
