"""Ban lists' rules in legacy tables: what they do to real packets, and what they leave alone.

The match is a plain `-s CLIENT` here, so that nothing but the rules is at work.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from limited import DIALS, LIMIT, Shape
from seccomp import environment

import nfkeep
from nfkeep import Family
from nfkeep.bans.legacy_rules import LONGEST_NAME, LegacyRules
from nfkeep.bans.values import Action, Kind, Policy, Rejection, services
from nfkeep.errors import InvalidListError
from nfkeep.testing import living, wait_until

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace
    from nfkeep.testing import EchoServer, Gateway
    from nfkeep.testing.fixtures import Dialer, EchoServerFactory

pytestmark = pytest.mark.kernel

FAMILIES = pytest.mark.parametrize("family", list(Family), ids=str)
TOOLS = {Family.IPV4: "iptables-legacy", Family.IPV6: "ip6tables-legacy"}
HOSTS = {Family.IPV4: Kind.HOST4, Family.IPV6: Kind.HOST6}
EVERYBODY = {Family.IPV4: bytes(8), Family.IPV6: bytes(32)}
SILENCE = 0.4  # seconds without an answer that stand for none at all


def rules_for(network: Gateway, name: str = "sshd") -> LegacyRules:
    """A list that has the client in it."""
    return LegacyRules(name, {family: [f"-s {network.client_addresses(family)[0]}"] for family in Family})


def in_place(name: str = "sshd", *sources: str) -> LegacyRules:
    """A list for tests without packets."""
    return LegacyRules(name, {Family.IPV4: sources or ["-s 192.0.2.1"], Family.IPV6: ["-s fd99::1"]})


def saved(namespace: Namespace, *tables: str) -> list[str]:
    """All that both families' tables have in them, as iptables-save prints it, but for counters and comments."""
    lines = []
    for tool in TOOLS.values():
        for table in tables or ("mangle", "filter"):
            said = namespace.run(f"{tool}-save -t {table}").stdout.splitlines()
            lines += [line.partition(" [")[0] for line in said if not line.startswith("#")]
    return lines


class Services:
    """Echo servers on the gateway and behind it, and who gets through to them."""

    def __init__(self, network: Gateway, family: Family, start: EchoServerFactory, dialer: Dialer) -> None:
        self.network, self.family, self.dialer = network, family, dialer
        self.places = {"INPUT": network.gateway_address(family), "FORWARD": network.server_address(family)}
        self.start = start
        for port in (22, 80):
            self.listen("INPUT", port)
            self.listen("FORWARD", port)

    def listen(self, place: str, port: int, kind: str = "tcp") -> EchoServer:
        where = self.network.gateway if place == "INPUT" else self.network.server
        return self.start(where, self.family, kind, self.places[place], port)

    def assert_reached(self, expected: list[tuple[str, int]], *ports: int, kind: str = "tcp") -> None:
        """Of some ports of both places a client gets an echo from just those expected, which get more time for it."""
        reached = [
            (place, port)
            for place, address in self.places.items()
            for port in ports or (22, 80)
            if self.dialer(
                *(self.network.client, self.family, kind, address, port),
                timeout=5 if (place, port) in expected else SILENCE,
            )
        ]
        assert reached == expected


ALL = [("INPUT", 22), ("INPUT", 80), ("FORWARD", 22), ("FORWARD", 80)]
OTHERS = [("INPUT", 80), ("FORWARD", 80)]


@pytest.fixture(params=list(Family), ids=str)
def network(
    request: pytest.FixtureRequest, gateway: Gateway, echo_server: EchoServerFactory, dialer: Dialer
) -> Services:
    return Services(gateway, request.param, echo_server, dialer)


def test_drop(network: Services) -> None:
    """A banned client reaches neither the host nor what is behind it, not even over what is open, until lifted."""
    network.assert_reached(ALL)
    open_ones = network.dialer(network.network.client, network.family, "tcp", network.places["FORWARD"], 22, 2)
    rules = rules_for(network.network)
    with network.network.gateway:
        rules.install(Policy())
        assert rules.in_force()
        network.assert_reached([])
        assert living(open_ones, SILENCE) == []
        rules.remove()
    network.assert_reached(ALL)


def test_only_services(network: Services) -> None:
    """A list for one port lets the others pass."""
    with network.network.gateway:
        rules_for(network.network).install(Policy(services=services("22/tcp 443")))
    network.assert_reached(OTHERS)


def test_ranges_of_ports_and_udp(network: Services) -> None:
    """A list for a range of UDP ports drops both its ends, and neither its neighbours nor TCP."""
    for port in (999, 1000, 1005, 1006):
        network.listen("INPUT", port, "udp")
    network.listen("INPUT", 1000)
    with network.network.gateway:
        rules_for(network.network).install(Policy(services=services("1000-1005/udp")))
    network.assert_reached([("INPUT", 999), ("INPUT", 1006)], 999, 1000, 1005, 1006, kind="udp")
    network.assert_reached([("INPUT", 1000)], 1000)


@pytest.mark.parametrize("ports", ["22/tcp", "20-30/tcp"])
def test_ports_are_those_that_the_client_dialled(network: Services, ports: str) -> None:
    """Behind DNAT and REDIRECT to another port a service is still the one that the client dialled."""
    tool, server = TOOLS[network.family], network.places["FORWARD"]
    to = f"[{server}]:80" if network.family is Family.IPV6 else f"{server}:80"
    run = network.network.gateway.run
    run(f"{tool} -t nat -A PREROUTING -d {network.places['INPUT']} -p tcp --dport 22 -j DNAT --to-destination {to}")
    run(f"{tool} -t nat -A PREROUTING -d {network.places['INPUT']} -p tcp --dport 443 -j DNAT --to-destination {to}")
    run(f"{tool} -t nat -A PREROUTING -d {network.places['INPUT']} -p tcp --dport 25 -j REDIRECT --to-ports 80")
    network.assert_reached([("INPUT", 22), ("INPUT", 25), ("INPUT", 443), ("FORWARD", 22)], 22, 25, 443)
    with network.network.gateway:
        rules_for(network.network).install(Policy(services=services([ports, "25/tcp"])))
    network.assert_reached([("INPUT", 80), ("INPUT", 443), ("FORWARD", 80)], 22, 25, 80, 443)


def test_count(network: Services) -> None:
    """A list that counts lets all pass, and its rules have counted them."""
    with network.network.gateway:
        rules_for(network.network).install(Policy(Action.COUNT, services("22/tcp")))
        network.assert_reached(ALL)
        dialled, before_nat = nfkeep.read("mangle", network.family).chains["nfkeep:sshd"].rules
    assert dialled.counters.packets >= 2 * 4
    assert before_nat.counters == dialled.counters


RECEIVE_ERRORS = {  # IP_RECVERR (linux/in.h), IPV6_RECVERR (linux/in6.h): also those that may pass
    Family.IPV4: (socket.IPPROTO_IP, 11),
    Family.IPV6: (socket.IPPROTO_IPV6, 25),
}


def error_of_dialling(network: Services, kind: socket.SocketKind, port: int) -> str:
    """What a client's socket is told, at once: a name of errno, or what else came of it."""
    with network.network.client, socket.socket(network.family.value, kind) as sock:
        sock.setblocking(False)
        sock.connect_ex((str(network.places["INPUT"]), port))
        if kind == socket.SOCK_DGRAM:
            level, option = RECEIVE_ERRORS[network.family]
            sock.setsockopt(level, option, 1)
            sock.send(b"x")
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if kind == socket.SOCK_STREAM else 0))
            selector.select(2.0)
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return errno.errorcode.get(number, "no answer")


ANSWERS = {
    (Rejection.PORT_UNREACHABLE, Family.IPV4): "ECONNREFUSED",
    (Rejection.PORT_UNREACHABLE, Family.IPV6): "ECONNREFUSED",
    (Rejection.HOST_UNREACHABLE, Family.IPV4): "EHOSTUNREACH",
    (Rejection.HOST_UNREACHABLE, Family.IPV6): "EHOSTUNREACH",
    (Rejection.ADMIN_PROHIBITED, Family.IPV4): "EHOSTUNREACH",
    (Rejection.ADMIN_PROHIBITED, Family.IPV6): "EACCES",
    (Rejection.NO_ROUTE, Family.IPV4): "ENETUNREACH",
    (Rejection.NO_ROUTE, Family.IPV6): "ENETUNREACH",
    (Rejection.TCP_RESET, Family.IPV4): "ECONNREFUSED",
    (Rejection.TCP_RESET, Family.IPV6): "ECONNREFUSED",
}


@pytest.mark.parametrize("given", ["", "22/tcp 22/udp"])
@pytest.mark.parametrize("rejection", list(Rejection), ids=lambda rejection: rejection.value)
def test_reject(network: Services, rejection: Rejection, given: str) -> None:
    """A list that rejects answers at once, TCP and UDP, as asked for."""
    policy = Policy(Action.REJECT, services(given), rejection)
    rules = rules_for(network.network)
    with network.network.gateway:
        rules.install(policy)
        assert (rules.in_force(), rules.policy()) == (True, policy)
        assert "nfkeep" not in nfkeep.read("mangle", network.family).chains
    network.listen("INPUT", 22, "udp")
    expected = ANSWERS[rejection, network.family]
    assert error_of_dialling(network, socket.SOCK_STREAM, 22) == expected
    assert error_of_dialling(network, socket.SOCK_DGRAM, 22) == expected


@pytest.mark.parametrize("action", [Action.DROP, Action.REJECT])
def test_the_allow_list_wins(network: Services, action: Action) -> None:
    """An allowed host, or one of an allowed network, passes every list, whichever was there first."""
    client = network.network.client_addresses(network.family)[0]
    host, net = HOSTS[network.family], Kind(HOSTS[network.family] + 2)
    rules, other = rules_for(network.network), rules_for(network.network, "other")
    with network.network.gateway:
        rules.install(Policy(action))
        rules.allow(host, client.packed)
        rules.allow(host, client.packed)
        assert rules.allowed() == [(host, client.packed)]
        network.assert_reached(ALL)
        other.install(Policy())
        network.assert_reached(ALL)
        assert (other.disallow(host, client.packed), other.disallow(host, client.packed)) == (1, 0)
        network.assert_reached([])
        network_of_client = client.packed[:1] + bytes(len(client.packed) - 1)
        network_of_client += b"\xff" + bytes(len(client.packed) - 1)
        other.allow(net, network_of_client)
        assert rules.allowed() == [(net, network_of_client)]
        network.assert_reached(ALL)
        rules.remove()
        other.remove()
        assert rules.allowed() == [(net, network_of_client)]
        rules.install(Policy(action))
        network.assert_reached(ALL)
        assert rules.disallow(net, network_of_client) == 1
        network.assert_reached([])


def test_own_addresses_are_never_banned(namespace: Namespace, echo_server: EchoServerFactory, dialer: Dialer) -> None:
    """Packets over lo pass, so that a list with one of the host's own addresses in it harms nobody."""
    server = echo_server(namespace, Family.IPV4, "tcp", "127.0.0.1")
    with namespace:
        LegacyRules("self", {Family.IPV4: ["-s 127.0.0.0/8"]}).install(Policy())
    assert len(dialer(namespace, Family.IPV4, "tcp", "127.0.0.1", server.port)) == 1


FOREIGN = [
    "-t mangle -N theirs",
    "-t mangle -A theirs -m recent --update --seconds 60 --name theirs -j DROP",
    "-t mangle -A INPUT -i eth9 -j theirs",
    "-t mangle -A PREROUTING -j MARK --set-mark 7",
    "-N DOCKER-USER",
    "-A FORWARD -j DOCKER-USER",
    "-A DOCKER-USER -j RETURN",
    "-P FORWARD DROP",
    "-A INPUT -p tcp --dport 22 -m limit --limit 5/min -j ACCEPT",
    "-A INPUT -m comment --comment 'with a \"quote\"' -j LOG --log-prefix 'x y'",
    "-N nfkeep-hold",
]


@pytest.mark.parametrize("action", list(Action), ids=lambda action: action.value)
def test_foreign_rules_are_left_as_they_are(namespace: Namespace, action: Action) -> None:
    """Whatever lists are made and removed: rules of somebody else stay as they were, where they were."""
    for tool in TOOLS.values():
        for rule in FOREIGN:
            namespace.run(f"{tool} {rule}")
    before = saved(namespace)
    with namespace:
        one, other = in_place("one"), in_place("other")
        one.install(Policy(action, services("22 80/udp icmp")))
        other.install(Policy())
        one.allow(Kind.HOST4, bytes([192, 0, 2, 9]))
        assert set(before) <= set(saved(namespace))
        assert "-A DOCKER-USER -j RETURN" in saved(namespace)
        one.disallow(Kind.HOST4, bytes([192, 0, 2, 9]))
        one.remove()
        other.remove()
    assert saved(namespace) == before


def test_other_lists_are_left_as_they_are(namespace: Namespace) -> None:
    """Making, changing and removing one list changes no rule of another."""
    policies = [Policy(), Policy(Action.REJECT, services("22/tcp")), Policy(Action.COUNT)]
    with namespace:
        lists = [in_place(f"list{number}") for number in range(3)]
        for each, policy in zip(lists, policies, strict=True):
            each.install(policy)
        before = saved(namespace)
        another = in_place("another")
        for policy in reversed(policies):
            another.install(policy)
            assert [each.policy() for each in lists] == policies
            assert all(each.in_force() for each in (*lists, another))
        another.remove()
        assert saved(namespace) == before
        for each in lists:
            each.remove()
        assert [line for line in saved(namespace) if "nfkeep" in line] == []


def test_removing_what_is_not_there(namespace: Namespace) -> None:
    """To remove a list that was never made changes nothing, and sets no table up."""
    with namespace:
        in_place().remove()
        assert (in_place().policy(), in_place().in_force(), in_place().allowed()) == (None, False, [])
        assert nfkeep.xtables.tables.in_use(Family.IPV4) == ()


def test_a_rule_of_somebody_else_in_the_shared_chain(namespace: Namespace) -> None:
    """What an administrator puts into the shared chain stays there, and keeps the chain."""
    with namespace:
        in_place().install(Policy())
        namespace.run("iptables-legacy -t mangle -I nfkeep -i wg0 -j RETURN")
        in_place().install(Policy(Action.COUNT))
        assert in_place().allowed() == []
        in_place().remove()
    assert "-A nfkeep -i wg0 -j RETURN" in saved(namespace)


MANY_SERVICES = " ".join(f"{port}/tcp" for port in range(1, 301, 2))
EVERY_SERVICE = "22 80-90/udp 5/sctp 6-9/dccp 7/udplite tcp icmp icmpv6 esp ah gre"


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("given", ["", EVERY_SERVICE, MANY_SERVICES], ids=["all", "every sort", "many"])
@pytest.mark.parametrize("action", list(Action), ids=lambda action: action.value)
def test_the_policy_is_read_back(namespace: Namespace, action: Action, given: str, kill: bool) -> None:
    """The kernel takes the rules for every service there is, and they tell what they are for."""
    policy = Policy(
        action, services(given), Rejection.NO_ROUTE if action is Action.REJECT else Policy().rejection, kill
    )
    with namespace:
        in_place().install(policy)
        assert in_place().policy() == policy
        assert in_place().in_force()
        in_place().install(Policy())
        assert in_place().policy() == Policy()


def test_rules_survive_save_and_restore(namespace: Namespace) -> None:
    """What iptables-save wrote, iptables-restore brings back, policy and all."""
    policies = [
        Policy(Action.DROP, services(EVERY_SERVICE), kill=True),
        Policy(Action.REJECT, services(MANY_SERVICES), Rejection.TCP_RESET, kill=True),
        Policy(Action.COUNT),
    ]
    with namespace:
        for number, policy in enumerate(policies):
            in_place("x" * (number * 30 + 5)).install(policy)
        in_place().allow(Kind.NET6, bytes([0xFD] + [0] * 15 + [0xFF] + [0] * 15))
        before = saved(namespace)
        for tool in TOOLS.values():
            text = namespace.run(f"{tool}-save").stdout
            for table in ("mangle", "filter"):
                namespace.run(f"{tool} -t {table} -F")
                namespace.run(f"{tool} -t {table} -X")
            assert "nfkeep" not in namespace.run(f"{tool}-save").stdout
            namespace.run(f"{tool}-restore", input=text)
        assert saved(namespace) == before
        for number, policy in enumerate(policies):
            assert in_place("x" * (number * 30 + 5)).policy() == policy
            assert in_place("x" * (number * 30 + 5)).in_force()


def packets_of_the_first(namespace: Namespace) -> int:
    """How often `nth` has come round to its first packet: once more after each replace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", 9))
    (rule,) = nfkeep.read("mangle").chains["OUTPUT"].rules
    return rule.counters.packets


def test_what_is_in_place_is_not_put_in_place_again(namespace: Namespace) -> None:
    """To install what is there, or allow what is allowed, replaces no table."""
    namespace.run("iptables-legacy -t mangle -A OUTPUT -p udp -m statistic --mode nth --every 1000 --packet 0")
    with namespace:
        in_place().install(Policy())
        in_place().allow(Kind.HOST4, bytes([192, 0, 2, 9]))
        assert packets_of_the_first(namespace) == 1
        in_place().install(Policy())
        in_place().allow(Kind.HOST4, bytes([192, 0, 2, 9]))
        assert in_place().disallow(Kind.HOST4, bytes([192, 0, 2, 8])) == 0
        in_place("missing").remove()
        assert packets_of_the_first(namespace) == 1
        in_place().install(Policy(Action.COUNT))
        assert packets_of_the_first(namespace) == 2


DAMAGE = {
    "a verdict is gone": "-t mangle -F nfkeep:sshd",
    "the way to it is gone": "-t mangle -F nfkeep/sshd",
    "the shared chain is empty": "-t mangle -F nfkeep",
    "the shared chain is passed over": "-t mangle -I nfkeep -j RETURN",
    "INPUT is empty": "-t mangle -F INPUT",
    "FORWARD accepts all before": "-t mangle -I FORWARD -j ACCEPT",
    "all is empty": "-t mangle -F",
    "another verdict": "-t mangle -R nfkeep:sshd 1 -j ACCEPT",
}


@FAMILIES
@pytest.mark.parametrize("command", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_seen_and_mended(namespace: Namespace, family: Family, command: str) -> None:
    """A list whose rules somebody has changed is not in force, and still known; to install it mends it."""
    policy = Policy(services=services("22/tcp icmp"))
    with namespace:
        in_place().install(policy)
        namespace.run(f"{TOOLS[family]} {command}")
        assert (in_place().in_force(), in_place().policy()) == (False, policy)
        if command == DAMAGE["the shared chain is passed over"]:  # it is an entry of the allow list: everybody
            assert in_place().disallow(Kind(HOSTS[family] + 2), EVERYBODY[family]) == 1
        in_place().install(policy)
        assert in_place().in_force()


NO_IPV6 = """
import errno, sys
from seccomp import forbid
from nfkeep import Family
from nfkeep.bans.legacy_rules import LegacyRules
from nfkeep.bans.values import Policy
from nfkeep.errors import UnsupportedError
forbid(55, {1: 41, 2: 64}, errno.ENOPROTOOPT)  # getsockopt, IPPROTO_IPV6, IP6T_SO_GET_INFO
rules = LegacyRules("sshd", {family: ["-i eth9"] for family in Family})
try:
    rules.install(Policy())
except UnsupportedError as error:
    print(error.feature, rules.policy())
"""


def test_a_kernel_without_tables_for_ipv6(namespace: Namespace) -> None:
    """A host that speaks IPv6, and has no tables for it, is told so, and nothing is made."""
    said = namespace.run([sys.executable, "-c", NO_IPV6], env=environment())
    assert said.stdout == "ip6table_mangle None\n"
    assert [line for line in saved(namespace) if "nfkeep" in line] == []


def test_a_condition_before_the_jump(namespace: Namespace) -> None:
    """A rule with conditions before the jumps is its owner's wish; the next install goes first again."""
    with namespace:
        in_place().install(Policy())
        namespace.run("iptables-legacy -t mangle -I INPUT -s 192.0.2.5 -j ACCEPT")
        assert in_place().in_force()
        in_place().install(Policy())
        jump, other = nfkeep.read("mangle").chains["INPUT"].rules
    assert (str(jump), str(other)) == ("-j nfkeep", "-s 192.0.2.5/32 -j ACCEPT")


def test_comments_that_nobody_understands(namespace: Namespace) -> None:
    """A comment that somebody has rewritten is an error that says so, not a guess."""
    with namespace:
        in_place().install(Policy())
        namespace.run(
            "iptables-legacy -t mangle -R nfkeep/sshd 1 -s 192.0.2.1"
            " -m comment --comment 'nfkeep ban list sshd: be nice' -g nfkeep:sshd"
        )
        with pytest.raises(InvalidListError):
            in_place().policy()


def test_long_names(namespace: Namespace) -> None:
    """Names longer than a chain's can be do, even where they differ in their last letter only."""
    names = ["a" * (LONGEST_NAME - 1) + last for last in "bc"] + ["a" * 21, "a" * 22]
    policies = [Policy(Action.REJECT, (), Rejection.ADMIN_PROHIBITED, True), Policy(), Policy(Action.COUNT), Policy()]
    with namespace:
        for name, policy in zip(names, policies, strict=True):
            in_place(name).install(policy)
        assert [in_place(name).policy() for name in names] == policies
        in_place(names[0]).remove()
        assert [in_place(name).policy() for name in names] == [None, *policies[1:]]


def test_no_moment_without_a_list(network: Services) -> None:
    """While a list goes from drop to reject and back, in other tables, not one packet of a banned client passes."""
    client, address = network.network.client, str(network.places["INPUT"])
    rules = rules_for(network.network)
    stop = threading.Event()
    with network.network.gateway, contextlib.ExitStack() as stack:
        rules.install(Policy())
        receiver = stack.enter_context(socket.socket(network.family.value, socket.SOCK_DGRAM))
        receiver.bind((address, 9))
        receiver.setblocking(False)
        with client:
            sender = stack.enter_context(socket.socket(network.family.value, socket.SOCK_DGRAM))
        sent = 0

        def send() -> None:
            nonlocal sent
            while not stop.is_set():
                with contextlib.suppress(OSError):  # what a rejection answers
                    sent += sender.sendto(b"x", (address, 9))

        thread = threading.Thread(target=send)
        thread.start()
        try:
            for _ in range(10):
                for policy in (Policy(Action.REJECT), Policy(services=services("9/udp")), Policy()):
                    rules.install(policy)
        finally:
            stop.set()
            thread.join()
        assert sent > 100
        with pytest.raises(BlockingIOError):
            receiver.recv(1)


SHAPES = [Shape("INPUT"), Shape("FORWARD", chain="FORWARD", nat=True), Shape("IPv6 INPUT", Family.IPV6)]


@pytest.mark.parametrize("action", [Action.DROP, Action.REJECT])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_connection_limits_are_kept(start_service: Callable[..., object], shape: Shape, action: Action) -> None:
    """Making, changing and removing lists leaves connlimit's count as it was, in whichever table."""
    service = start_service(shape)
    old = service.dial()
    assert len(old) == LIMIT
    with service.gateway:
        in_place().install(Policy(action, services("22/tcp")))
        assert len(service.dial()) == 0
        in_place().allow(Kind.HOST4, bytes([192, 0, 2, 9]))
        in_place("other").install(Policy(Action.REJECT))
        in_place("other").remove()
        in_place().remove()
    assert len(service.dial(DIALS)) == 0
    assert len(living(old)) == LIMIT


MAKER = """
import sys
from nfkeep import Family
from nfkeep.bans.legacy_rules import LegacyRules
from nfkeep.bans.values import Action, Kind, Policy
number = int(sys.argv[1])
rules = LegacyRules(f"list{number}", {Family.IPV4: ["-s 192.0.2.1"], Family.IPV6: ["-s fd99::1"]})
sys.stdin.read()
for _ in range(5):
    rules.install(Policy())
    rules.allow(Kind.HOST4, bytes([192, 0, 2, number]))
    rules.install(Policy(Action.REJECT))
    rules.disallow(Kind.HOST4, bytes([192, 0, 2, number]))
    if number % 2:
        rules.remove()
rules.allow(Kind.HOST4, bytes([192, 0, 2, number]))
"""


@contextlib.contextmanager
def processes(namespace: Namespace, script: str, count: int) -> Iterator[None]:
    """As many processes as asked for, that all start at once when the block is left; all end well."""
    running = [
        namespace.popen([sys.executable, "-c", script, str(number)], stdin=-1, stderr=-1) for number in range(count)
    ]
    yield
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
    for process in running:
        assert process.stderr is not None
        with process:
            assert (process.wait(60), process.stderr.read()) == (0, "")


def test_processes_at_once(namespace: Namespace) -> None:
    """Of lists that several processes make, move and remove at once each ends as its process left it."""
    with processes(namespace, MAKER, 4):
        pass
    with namespace:
        policies = [in_place(f"list{number}").policy() for number in range(4)]
        assert policies == [Policy(Action.REJECT), None, Policy(Action.REJECT), None]
        assert in_place("list0").in_force()
        assert sorted(key[3] for _, key in in_place().allowed()) == [0, 1, 2, 3]
        filtered = nfkeep.read("filter").chains["nfkeep"].rules
        assert sum("-j RETURN" in str(rule) for rule in filtered) == 5  # the allow list is copied, and lo


def test_programs_without_the_lock(namespace: Namespace, tmp_path: Path) -> None:
    """A program that changes the same table at the same time, and does not ask for the lock, costs another try."""
    stop = threading.Event()
    other_lock = {**os.environ, "XTABLES_LOCKFILE": str(tmp_path / "lock")}

    def change() -> None:
        while not stop.is_set():
            for what in ("-A", "-D"):  # which fails where we come in between
                namespace.run(f"iptables-legacy -t mangle {what} OUTPUT -p tcp -j ACCEPT", env=other_lock, check=False)
            stop.wait(0.02)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        with namespace:
            for _ in range(10):
                in_place().install(Policy())
                in_place().remove()
    finally:
        stop.set()
        thread.join()
    assert [line for line in saved(namespace) if "nfkeep" in line] == []


def test_one_packet_is_counted_once(network: Services) -> None:
    """A source that two matches of a list know goes through its verdicts once, and then on to the next list."""
    client = network.network.client_addresses(network.family)[0]
    with network.network.gateway:
        for name in ("one", "other"):
            LegacyRules(name, {network.family: [f"-s {client}", f"-s {client}/16"]}).install(Policy(Action.COUNT))
        network.assert_reached(OTHERS, 80)
        assert wait_until(lambda: len({counted(network.family, name) for name in ("one", "other")}) == 1)
        chains = nfkeep.read("mangle", network.family).chains
        first, second = chains["nfkeep/one"].rules
        assert chains["nfkeep:one"].rules[-1].counters == first.counters
        assert (first.counters.packets > 0, second.counters.packets) == (True, 0)


def counted(family: Family, name: str) -> int:
    """Packets that have gone through a list's verdicts."""
    return sum(rule.counters.packets for rule in nfkeep.read("mangle", family).chains[f"nfkeep:{name}"].rules)
