"""A host to be moved: a gateway with some hundred rules of many kinds in both families, sets, lists and connections."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import attrs
from rounds import PART

from nfkeep import Counters, Family
from nfkeep.testing import abort_all, dial

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from typing_extensions import Self

    from nfkeep.namespaces import Namespace
    from nfkeep.testing import Gateway, IPAddress

LIMIT = 10
LOCAL, DIRECT, BEHIND = 8000, 873, 8730
"""Ports: of the gateway's own service, and of the one behind it, as dialled and as it is."""
UDP, SPENT, DRAINED = 9000, 7, 8
"""Ports: where datagrams are welcome, under a wide quota; where one has been used in part, and where tokens have."""
LAST = {SPENT: 9001, DRAINED: 9002}
"""For these two: where what is sent last is welcome."""
QUOTA, WIDE_QUOTA, TOKENS = 100_000, 10**12, 40
SECONDS = 3600
BANNED = "banned"

_IDLE = (
    "-s {address} -j DROP",
    "-s {address} -p tcp -m tcp --dport {port} -j REJECT --reject-with tcp-reset",
    "-s {address} -p tcp -m multiport --dports {port},{port2}:65000 -j ACCEPT",
    "-s {address} -p udp -m multiport --ports 53,{port} -m conntrack --ctstate NEW -j ACCEPT",
    "-s {address} -m conntrack --ctstate INVALID,UNTRACKED -j DROP",
    "-s {address} -m limit --limit 5/minute --limit-burst 7 -j ACCEPT",
    "-s {address} -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m mark --mark {number:#x}/0xffff -j DROP",
    "-s {address} -m length --length 100:1400 -m comment --comment idle -j REJECT",
    "-s {address} -p udp -m udp --sport {port} -m quota --quota 5000000 -j ACCEPT",
    "-s {address} -m set --match-set banned src -j RETURN",
    "-s {address} -p tcp -m tcp --dport {port} -m hashlimit --hashlimit-upto 50/sec --hashlimit-mode srcip"
    " --hashlimit-name h{number} -j ACCEPT",
    "-s {address} -m statistic --mode nth --every 3 --packet 0 -j DROP",
    "-s {address} -g later",
    "-s {address} -p tcp --syn -m tcp --dport {port} -m connlimit --connlimit-above 20 -j DROP",
)
_IDLE_MANGLE = (
    "-s {address} -j MARK --set-xmark {number:#x}/0xffff",
    "-s {address} -j CONNMARK --set-xmark 0x4/0xf",
    "-s {address} -p tcp -m tcp --dport {port} -j TOS --set-tos 0x10/0x3f",
    "-s {address} -j DSCP --set-dscp 0x0a",
)


def _addresses(family: Family) -> Iterator[str]:
    """Those of nobody."""
    for number in itertools.count(1):
        low = f"{number // 250}.{number % 250 + 1}"
        yield f"198.18.{low}" if family is Family.IPV4 else f"fd18::{number:x}"


@attrs.frozen
class MovedHost:
    """The gateway of a network, with its rules loaded. `idle` is what those have counted that no packet meets."""

    network: Gateway
    idle: frozenset[Counters]

    @property
    def namespace(self) -> Namespace:
        return self.network.gateway

    def list(self, number: int, family: Family, addresses: Iterable[str]) -> None:
        """Put addresses into a list of recent, as seen now."""
        name = f"seen{number}{'-6' if family is Family.IPV6 else ''}"
        with self.namespace:
            for address in addresses:
                with open(f"/proc/thread-self/net/xt_recent/{name}", "w") as file:  # the file takes one each time
                    file.write(f"+{address}\n")

    def ban(self, family: Family, left: Mapping[str, int]) -> None:
        """Put addresses into the set of ipset, for so many seconds each."""
        lines = [f"add {_set(family)} {address} timeout {seconds}" for address, seconds in left.items()]
        self.namespace.run(["ipset", "restore"], input="\n".join([*lines, ""]))

    def left_in_nft(self, family: Family) -> dict[str, float]:
        """For how many seconds more each address is in a set of nft; the least of them if it is in several."""
        found: dict[str, float] = {}
        listing = json.loads(self.namespace.run("nft -j list ruleset").stdout)["nftables"]
        for each in listing:
            if each.get("set", {}).get("family") != ("ip6" if family is Family.IPV6 else "ip"):
                continue
            for element in each["set"].get("elem", ()):
                if isinstance(element, dict) and "expires" in element["elem"]:
                    address, left = element["elem"]["val"], element["elem"]["expires"]
                    found[address] = min(left, found.get(address, left))
        return found

    def counted_in_nft(self) -> set[Counters]:
        """What rules of nft have counted."""
        return _counted(self.namespace.run("nft list ruleset").stdout, r"counter packets (\d+) bytes (\d+)")

    def counted_in_iptables(self) -> set[Counters]:
        """What rules of iptables have counted."""
        texts = (self.namespace.run(f"{name}-legacy-save -c").stdout for name in ("iptables", "ip6tables"))
        return _counted("".join(texts), r"\[(\d+):(\d+)\] -A")

    def used(self, family: Family) -> Counters:
        """What the rule of the wide quota has counted, in iptables; and what of it is used, as bytes."""
        saved = self.namespace.run(f"{'ip6' if family is Family.IPV6 else 'ip'}tables-legacy-save -c -t filter").stdout
        [(packets, figure)] = re.findall(rf"^\[(\d+):\d+\] .* --dport {UDP} .* --quota (\d+) ", saved, re.MULTILINE)
        return Counters(int(packets), WIDE_QUOTA - int(figure))

    def spender(self, port: int) -> Spender:
        """Somebody who spends the quota, or tokens."""
        return Spender(self.network, port)


def _counted(text: str, counters: str) -> set[Counters]:
    return {Counters(int(packets), int(octets)) for packets, octets in re.findall(counters, text)}


def _set(family: Family) -> str:
    return f"{BANNED}6" if family is Family.IPV6 else BANNED


class Spender:
    """Sends datagrams of 1000 bytes to a port, and tells how many arrive."""

    def __init__(self, network: Gateway, port: int) -> None:
        self._to = str(network.gateway_address(Family.IPV4)), port
        self._last = str(network.gateway_address(Family.IPV4)), LAST[port]
        with network.gateway:
            self._receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._receiver.bind(self._to)
            self._fence = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._fence.bind(self._last)
        with network.client:
            self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._receiver, self._fence, self._sender):
            each.close()

    def send(self, number: int) -> int:
        """How many of so many arrive: all before one that is sent to another port after them."""
        for _ in range(number):
            self._sender.sendto(bytes(1000 - 28), self._to)
        self._sender.sendto(b"", self._last)
        self._fence.recv(1)
        arrived = 0
        with contextlib.suppress(BlockingIOError):
            while self._receiver.recv(2000, socket.MSG_DONTWAIT):
                arrived += 1
        return arrived


@contextlib.contextmanager
def served(namespace: Namespace, family: Family, address: IPAddress, port: int) -> Iterator[None]:
    """An echo server in a process of its own, which has files for as many connections again."""
    process = namespace.popen(
        [sys.executable, "-c", _SERVER, family.name, str(address), f"{port}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


_SERVER = """
import contextlib, sys
from nfkeep import Family
from nfkeep.testing import EchoServer
with EchoServer(contextlib.nullcontext(), Family[sys.argv[1]], "tcp", sys.argv[2], int(sys.argv[3])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def load(network: Gateway, *, lists: int, idle: int) -> MovedHost:
    """Load the rules: `idle` of those that no packet meets, two thirds of them for IPv4."""
    names = tuple(f"seen{number}" for number in range(lists))
    network.gateway.run(f"ipset create {BANNED} hash:ip timeout {SECONDS} maxelem 100000")
    network.gateway.run(f"ipset create {BANNED}6 hash:ip family inet6 timeout {SECONDS}")
    found: list[Counters] = []
    for family, share in ((Family.IPV4, idle - idle // 3), (Family.IPV6, idle // 3)):
        text, some = _rules(network, family, names, share)
        name = "iptables" if family is Family.IPV4 else "ip6tables"
        network.gateway.run([f"{name}-legacy-restore", "-c"], input=text)
        found += some
    return MovedHost(network, frozenset(found))


def _rules(network: Gateway, family: Family, lists: tuple[str, ...], idle: int) -> tuple[str, list[Counters]]:
    v6 = family is Family.IPV6
    banned, icmp = (f"{BANNED}6", "ipv6-icmp") if v6 else (BANNED, "icmp")
    server = f"[{network.server_address(family)}]" if v6 else f"{network.server_address(family)}"
    of_lists = [f"-m recent --rcheck --seconds {SECONDS} --name {name}{'-6' if v6 else ''} -j DROP" for name in lists]
    limit = f"-m connlimit --connlimit-above {LIMIT} -j REJECT --reject-with tcp-reset"
    shut_out = [f"-m set --match-set {banned} src -j DROP", *of_lists]
    known = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    addresses, numbers, counted = _addresses(family), itertools.count(20_001 if v6 else 10_001), []

    def some(chain: str, kinds: tuple[str, ...], number: int) -> Iterator[str]:
        for at in range(number):
            address, packets = next(addresses), next(numbers)
            kind = kinds[at % len(kinds)].replace("banned", banned)
            rule = kind.format(address=address, port=1000 + at, port2=3000 + at, number=at)
            counted.append(Counters(packets, packets * 60))
            yield f"[{packets}:{packets * 60}] -A {chain} {rule}"

    lines = [
        "*mangle", ":PREROUTING ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]",
        f"-A PREROUTING -p udp -m udp --dport {UDP} -j MARK --set-xmark 0x5/0xf",
        "-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        *some("PREROUTING", _IDLE_MANGLE, idle // 5), "COMMIT",
        "*nat", ":PREROUTING ACCEPT [0:0]", ":POSTROUTING ACCEPT [0:0]",
        f"-A PREROUTING -p tcp -m tcp --dport {DIRECT} -j DNAT --to-destination {server}:{BEHIND}",
        "-A PREROUTING -p tcp -m tcp --dport 8001 -j REDIRECT --to-ports 8002",
        "-A POSTROUTING -o srv0 -j MASQUERADE", "COMMIT",
        "*filter", ":INPUT DROP [0:0]", ":FORWARD DROP [0:0]", ":OUTPUT ACCEPT [0:0]", ":later - [0:0]", ":own - [0:0]",
        "-A INPUT -i lo -j ACCEPT", *(f"-A INPUT {rule}" for rule in shut_out),
        f"-A INPUT -p tcp --syn -m tcp --dport {LOCAL} {limit}", f"-A INPUT {known}",
        f"-A INPUT -p udp -m udp --dport {SPENT} -m quota --quota {QUOTA} -j ACCEPT",
        f"-A INPUT -p udp -m udp --dport {DRAINED} -m hashlimit --hashlimit-upto 10/hour --hashlimit-burst {TOKENS}"
        " --hashlimit-mode srcip --hashlimit-name drained --hashlimit-htable-expire 3600000 -j ACCEPT",
        f"-A INPUT -p {icmp} -m limit --limit 1000/sec -j ACCEPT",
        f"-A INPUT -p tcp -m multiport --dports 22,25,{LOCAL} -j ACCEPT",
        f"-A INPUT -p udp -m udp --dport {min(LAST.values())}:{max(LAST.values())} -j ACCEPT",
        f"-A INPUT -p udp -m udp --dport {UDP} -m mark --mark 0x5/0xf -m quota --quota {WIDE_QUOTA} -j ACCEPT",
        "-A INPUT -j own",
        *(f"-A FORWARD {rule}" for rule in shut_out),
        f"-A FORWARD -i cli0 -p tcp --syn -m tcp --dport {BEHIND} {limit}", f"-A FORWARD {known}",
        f"-A FORWARD -i cli0 -p tcp -m tcp --dport {BEHIND} -m conntrack --ctstate NEW -j ACCEPT",
        "-A later -p tcp -m tcp --dport 1 -j DROP", "-A later -j RETURN",
        *some("own", _IDLE, idle - idle // 5), "COMMIT", "",
    ]  # fmt: skip
    return "\n".join(lines), counted


@attrs.frozen
class Door:
    """A service with a limit, and the sources that have as many connections to it as they may have."""

    family: Family
    port: int
    sources: tuple[IPAddress, ...]


class Again:
    """A thread that does the same again and again, inside the block; it lets others have the machine in between.

    On an emulated processor as much less often as tests have fewer rounds: nothing else would get a turn.
    """

    def __init__(self, pause_seconds: float) -> None:
        self._pause_seconds = pause_seconds * PART
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._pause_seconds):
            self.once()

    def once(self) -> None:
        """What it does."""
        raise NotImplementedError


class Intruders(Again):
    """A thread that dials, again and again, one connection more from each source."""

    def __init__(self, network: Gateway, doors: Iterable[Door]) -> None:
        super().__init__(0.02)
        self._network, self._doors = network, tuple(doors)
        self.tries, self.admitted = 0, 0

    def once(self) -> None:
        for door in self._doors:
            to, number = self._network.gateway_address(door.family), len(door.sources)
            client = self._network.client
            found = dial(client, door.family, "tcp", to, door.port, number, source=door.sources, timeout=0.3)
            self.tries += number
            self.admitted += len(found)
            abort_all(found)


class Strangers(Again):
    """A thread that sends datagrams: from the client's last four addresses, which are banned, and its first."""

    def __init__(self, network: Gateway) -> None:
        super().__init__(0.001)
        self.banned_arrived, self.welcome_arrived = 0, 0
        self.welcome_sent = 0
        """In each family."""
        self._pairs: list[tuple[list[socket.socket], socket.socket]] = []
        for family in Family:
            with network.gateway:
                receiver = socket.socket(family.value, socket.SOCK_DGRAM)
            receiver.bind((str(network.gateway_address(family)), UDP))
            senders = []
            for address in (network.client_addresses(family)[0], *network.client_addresses(family)[-4:]):
                with network.client:
                    senders.append(socket.socket(family.value, socket.SOCK_DGRAM))
                senders[-1].bind((str(address), 0))
                senders[-1].connect(receiver.getsockname()[:2])
            self._pairs.append((senders, receiver))

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for senders, receiver in self._pairs:
            for each in (*senders, receiver):
                each.close()

    def once(self) -> None:
        self.welcome_sent += 1
        for senders, receiver in self._pairs:
            for number, sender in enumerate(senders):
                sender.send(bytes([number]))
            with contextlib.suppress(BlockingIOError):
                while True:
                    if receiver.recv(10, socket.MSG_DONTWAIT)[0]:
                        self.banned_arrived += 1
                    else:
                        self.welcome_arrived += 1
