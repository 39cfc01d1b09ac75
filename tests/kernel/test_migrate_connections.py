"""Rules of iptables and their translation side by side on one host count the same packets of real connections.

Expected connections, NAT, sockets that wait and sockets of others: what packets made by hand do not have.
"""

from __future__ import annotations

import re
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from nfkeep.migrate import translate
from nfkeep.namespaces import Namespace, sysctl

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel

STREAM = socket.SOCK_STREAM
SURROUNDINGS = """*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -p udp --dport 7777 -j CT --notrack
-A OUTPUT -p udp --sport 7777 -j CT --notrack
-A PREROUTING -p tcp --dport 21 -j CT --helper ftp
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 80
-A POSTROUTING -p udp --dport 6666 -j SNAT --to-source 10.0.0.3
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp --dport 80 -j CONNMARK --set-xmark 0x5/0xffffffff
COMMIT
"""
IN_AND_OUT = """
-m conntrack --ctstate NEW,DNAT
-m conntrack ! --ctstate ESTABLISHED,SNAT
-m conntrack ! --ctstate ESTABLISHED,SNAT --ctproto 17
-m conntrack --ctstate INVALID,DNAT --ctdir ORIGINAL
-m conntrack --ctstate UNTRACKED
-m conntrack --ctstate RELATED,ESTABLISHED
-m conntrack --ctstatus EXPECTED
-m conntrack --ctproto 6 --ctorigdstport 8080
-m conntrack --ctproto 6 --ctreplsrcport 80:90
-m conntrack ! --ctorigsrc 10.0.0.2
-m conntrack --ctrepldst 10.0.0.3
-m connmark --mark 0x5
-m connmark ! --mark 0x4/0x4
-m connbytes --connbytes 300 --connbytes-mode bytes --connbytes-dir both
-m connbytes ! --connbytes 2:3 --connbytes-mode packets --connbytes-dir original
-m connlabel --label 41 --set
-m connlabel ! --label 41
-m helper --helper ftp
-m helper --helper ftp-2121
-m helper ! --helper ""
-m cgroup --cgroup 0
-m cgroup --path "/"
-m addrtype ! --dst-type LOCAL
"""
PREROUTING = """
-m socket
-m socket --nowildcard
-m socket --transparent
-m rpfilter
-m rpfilter --invert
-m rpfilter --accept-local
-m addrtype --src-type BROADCAST
"""
OUTPUT = """
-m owner --uid-owner 0
-m owner ! --uid-owner 0
-m owner ! --gid-owner 0-9 ! --uid-owner 5
"""


def cases() -> list[tuple[str, str, str]]:
    """Table, chain and rule."""
    found = [("filter", chain, rule) for chain in ("INPUT", "OUTPUT") for rule in IN_AND_OUT.strip().splitlines()]
    found += [("filter", "OUTPUT", rule) for rule in OUTPUT.strip().splitlines()]
    return found + [("mangle", "PREROUTING", rule) for rule in PREROUTING.strip().splitlines()]


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    """The host with the rules, 10.0.0.1, and another one, 10.0.0.2."""
    host, other = Namespace(), Namespace()
    host.run("ip link add h0 type veth peer name o0")
    host.run(f"ip link set o0 netns {other.path}")
    for namespace, name, addresses in ((host, "h0", ("10.0.0.1", "10.0.0.3")), (other, "o0", ("10.0.0.2",))):
        for address in addresses:
            namespace.run(f"ip addr add {address}/24 brd + dev {name}")
        namespace.run(f"ip link set {name} up")
    for name in ("all", "h0"):
        sysctl(host, f"net.ipv4.conf.{name}.rp_filter", 0)
        sysctl(host, f"net.ipv4.conf.{name}.accept_local", 1)
    yield host, other
    host.close()
    other.close()


def test_the_same_packets_are_counted(hosts: tuple[Namespace, Namespace]) -> None:
    """Every rule has seen as many packets and octets as its translation, and some somewhere."""
    host, other = hosts
    tried = cases()
    text = ""
    for table in ("mangle", "filter"):
        own = [(number, chain, rule) for number, (where, chain, rule) in enumerate(tried) if where == table]
        text += f"*{table}\n" + "".join(f":{chain} ACCEPT [0:0]\n" for chain in sorted({each[1] for each in own}))
        text += "".join(f"-A {chain} {rule} -m comment --comment case{number}\n" for number, chain, rule in own)
        text += "COMMIT\n"
    host.run("iptables-legacy-restore -w", input=SURROUNDINGS)
    host.run("iptables-legacy-restore -w -n", input=text)
    host.run("nft -f -", input=translate(text).script)

    Traffic(host, other).send()

    saved, listed = host.run("iptables-legacy-save -c").stdout, host.run("nft list ruleset").stdout
    legacy = {int(n): (int(p), int(b)) for p, b, n in re.findall(r"^\[(\d+):(\d+)\].*case(\d+)", saved, re.M)}
    nft = {int(n): (int(p), int(b)) for p, b, n in re.findall(r'packets (\d+) bytes (\d+) comment "case(\d+)"', listed)}
    assert {tried[n]: nft.get(n) for n in legacy} == {tried[n]: counted for n, counted in legacy.items()}
    assert {rule for _, _, rule in tried} == {tried[n][2] for n, (packets, _) in legacy.items() if packets}


class Traffic:
    """Connections between two hosts, and within the first one."""

    def __init__(self, host: Namespace, other: Namespace) -> None:
        self.host, self.other = host, other

    def send(self) -> None:
        """All of it; returns when the last packet has arrived."""
        for port, listening in ((80, "0.0.0.0:80"), (8080, "0.0.0.0:80"), (91, "10.0.0.1:91")):
            self._talk(self.other, f"10.0.0.1:{port}", self.host, listening)
        self._talk(self.other, "10.0.0.1:90", self.host, "10.0.0.1:90", transparent=True)
        self._talk(self.host, "10.0.0.2:80", self.other, "0.0.0.0:80")
        for port in (5555, 7777):
            self._talk(self.other, f"10.0.0.1:{port}", self.host, f"0.0.0.0:{port}", socket.SOCK_DGRAM)
        self._talk(self.host, "10.0.0.2:6666", self.other, "0.0.0.0:6666", socket.SOCK_DGRAM)
        self._oddities()
        self._expected()

    def _talk(
        self,
        asking: Namespace,
        to: str,
        answering: Namespace,
        at: str,
        kind: int = STREAM,
        *,
        transparent: bool = False,
    ) -> None:
        with asking:
            client = socket.socket(socket.AF_INET, kind)
        with answering:
            server = socket.socket(socket.AF_INET, kind)
        with client, server:
            client.settimeout(5)
            server.settimeout(5)
            if transparent:
                server.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(_address(at))
            if kind == STREAM:
                server.listen()
            client.connect(_address(to))
            with server.accept()[0] if kind == STREAM else server.dup() as answer:
                for _ in range(3):
                    client.sendall(b"seventeen octets!")
                    data, sender = answer.recvfrom(2000)
                    answer.sendall(data) if kind == STREAM else answer.sendto(data, sender)
                    assert client.recv(2000) == b"seventeen octets!"

    def _oddities(self) -> None:
        """Packets without a connection, from addresses that are nobody's or the host's own."""
        with self.other, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            strange = struct.pack("!HHIIBBHHH", 1, 80, 1, 1, 0x50, 0x3F, 100, 0, 0)
            short = struct.pack("!HHHH", 9, 5555, 8, 0)
            for source, protocol, data in (
                ("10.0.0.2", 6, strange), ("10.0.0.255", 17, short), ("10.0.0.1", 17, short), ("0.0.0.0", 17, short),
                ("192.168.7.7", 17, short),
            ):  # fmt: skip
                ends = socket.inet_aton(source), socket.inet_aton("10.0.0.1")
                head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(data), 1, 0, 64, protocol, 0, *ends)
                raw.sendto(head + data, ("10.0.0.1", 0))

    def _expected(self) -> None:
        """A connection that the helper of FTP has been told of."""
        with self.host:
            ftp = socket.create_server(("10.0.0.1", 21))
        with self.other:
            data, control = socket.create_server(("10.0.0.2", 5000)), socket.create_connection(("10.0.0.1", 21))
        with ftp, data, control, ftp.accept()[0] as asked:
            for line in (
                b"USER x\r\n",
                b"PORT 10,0,0,2,19,136\r\n",
            ):  # the helper looks at whole lines, after the first
                control.sendall(line)
                assert asked.recv(100) == line
            with self.host:
                sending = socket.create_connection(("10.0.0.2", 5000))
            with sending, data.accept()[0] as receiving:
                sending.sendall(b"x" * 3000)
                sending.shutdown(socket.SHUT_WR)
                while receiving.recv(5000):
                    pass


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return host, int(port)
