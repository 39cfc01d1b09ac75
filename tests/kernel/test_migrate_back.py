"""What nft has counted and learned since a move is there when the rules of iptables are back, confirmed or not."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from typing import TYPE_CHECKING

import attrs
import pytest
from flood import PAYLOADS, Flood

from nfkeep import Counters, Family
from nfkeep.migrate.live import record, ties

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600), pytest.mark.usefixtures("own_directories")]

MIGRATE = [sys.executable, "-c", "import sys; from nfkeep.cli.migrate import main; sys.exit(main())"]
HOME = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}
HEADERS = {Family.IPV4: 28, Family.IPV6: 48}
STAGES = ["apply", "rollback", "apply", "confirm", "rollback", "apply", "rollback"]
QUOTA, SIZE = 100_000, 1000


@attrs.frozen
class Host:
    """A namespace whose own packets meet its rules, over lo."""

    namespace: Namespace
    family: Family = Family.IPV4

    @property
    def iptables(self) -> str:
        return "iptables-legacy" if self.family is Family.IPV4 else "ip6tables-legacy"

    def rules(self, *rules: str) -> None:
        for rule in rules:
            self.namespace.run(f"{self.iptables} {rule}")

    def migrate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.namespace.run([*MIGRATE, *arguments], env=dict(os.environ))

    def send(self, port: int, number: int = 1, source: str | None = None) -> None:
        """Datagrams of SIZE bytes each, IP header and all."""
        with self.namespace, socket.socket(self.family.value, socket.SOCK_DGRAM) as sender:
            if source:
                sender.bind((source, 0))
            for _ in range(number):
                sender.sendto(bytes(SIZE - HEADERS[self.family]), (HOME[self.family], port))

    def counted(self, words: str) -> list[Counters]:
        """Of the rules and policies whose lines have these words, in order."""
        lines = self.namespace.run(f"{self.iptables}-save -c").stdout.splitlines()
        found = (re.search(r"\[(\d+):(\d+)\]", line) for line in lines if words in line)
        return [Counters(int(each[1]), int(each[2])) for each in found if each]

    def listed(self, name: str) -> dict[str, int]:
        """How many stamps each address of a list of recent has, the one seen longest ago first."""
        with self.namespace, open(f"/proc/thread-self/net/xt_recent/{name}") as file:
            rows = [re.findall(r"src=(\S+) .*last_seen: (\d+) oldest_pkt: \d+ (.*)", line)[0] for line in file]
        return {address: stamps.count(",") + 1 for address, _, stamps in sorted(rows, key=lambda row: int(row[1]))}

    def elements(self, name: str) -> dict[str, int | None]:
        """Of a set of ipset, with the seconds that are left of each."""
        lines = self.namespace.run(f"ipset save {name}").stdout.splitlines()
        rows = [line.split() for line in lines if line.startswith("add")]
        return {row[2]: int(row[row.index("timeout") + 1]) if "timeout" in row else None for row in rows}


@pytest.fixture
def host(namespace: Namespace) -> Host:
    return Host(namespace)


@pytest.mark.parametrize("family", Family, ids=str)
def test_exact_through_every_stage(namespace: Namespace, family: Family) -> None:
    """Rules, policies, and a quota, of which every byte passes once and no other does."""
    host = Host(namespace, family)
    host.rules(
        f"-A INPUT -p udp --dport 7 -m quota --quota {QUOTA} -j ACCEPT",
        "-A INPUT -p udp --dport 7 -j DROP",
        "-A INPUT -p udp -m multiport --dports 8,9",
        "-A INPUT -p udp -m multiport --dports 8,9",
        "-t mangle -A OUTPUT -p udp ! --dport 7",
        "-P FORWARD DROP",
    )
    with listening(host, 7, 8):  # or else there would be answers
        for command in ["", *STAGES]:
            if command:
                assert "lost" not in host.migrate(command).stdout
            host.send(7, 5)
            host.send(8, 3)
        sent = len(STAGES) + 1
        assert host.counted("--dports 8,9") == [Counters(3 * sent, 3 * sent * SIZE)] * 2
        assert host.counted("-A OUTPUT") == [Counters(3 * sent, 3 * sent * SIZE)]
        assert sorted(each.packets for each in host.counted(":INPUT ACCEPT")) == [3 * sent, 8 * sent]
        host.send(7, QUOTA // SIZE)
    assert host.counted("--dport 7")[-2:] == [Counters(QUOTA // SIZE, QUOTA), Counters(5 * sent, 5 * sent * SIZE)]


@contextlib.contextmanager
def listening(host: Host, *ports: int) -> Iterator[None]:
    """Somebody is at these ports."""
    with contextlib.ExitStack() as stack, host.namespace:
        for port in ports:
            receiver = stack.enter_context(socket.socket(host.family.value, socket.SOCK_DGRAM))
            receiver.bind((HOME[host.family], port))
        yield


def test_under_traffic(host: Host) -> None:
    """At full rate what is missing is no more than what is told, and nothing is counted twice."""
    host.rules(*(f"-A INPUT -p udp --dport {port} -j ACCEPT" for port in PAYLOADS))
    host.migrate("apply")
    flood = Flood(host.namespace)
    try:
        told = host.migrate("rollback").stdout
        sent = flood.stop()
    finally:
        flood.close()
    most = re.search(r"of each, (\d+) packets", told)
    assert ("restored" in told) == (most is None)
    for port, wanted in sent.items():
        (counted,) = host.counted(f"--dport {port}")
        assert 0 <= wanted.packets - counted.packets <= (int(most[1]) if most else 0), (port, told)


def test_others_have_changed_both(host: Host) -> None:
    """What is there still has what nft has counted; for what is not, that is told; what others added stays."""
    host.rules(*(f"-A INPUT -p udp --dport {port}" for port in range(11, 17)))
    host.migrate("apply")
    host.send(15)
    nft = host.namespace.run("nft -a list chain ip filter INPUT").stdout
    handles = dict(re.findall(r"udp dport (\d+) .*# handle (\d+)", nft))
    for command in (
        "nft insert rule ip filter INPUT udp dport 11 counter",
        f"nft delete rule ip filter INPUT handle {handles['12']}",
        f"nft replace rule ip filter INPUT handle {handles['13']} udp dport 13 counter packets 1000 bytes 1000 drop",
        f"nft insert rule ip filter INPUT position {handles['14']} udp dport 11",
        "iptables-legacy -I INPUT -s 192.0.2.1 -j DROP",
        "iptables-legacy -A INPUT -p udp --dport 16",
        "iptables-legacy -D INPUT -p udp --dport 15",
    ):
        host.namespace.run(command)
    for port in range(11, 17):
        host.send(port, port)
    told = host.migrate("rollback").stdout
    assert "what nft has counted for 4 that somebody has changed" in told
    assert [each[0].packets for port in (11, 12, 13, 14) if (each := host.counted(f"--dport {port}"))] == [11, 0, 0, 14]
    assert [each.packets for each in host.counted("--dport 16")] == [0, 0]
    assert host.counted("-s 192.0.2.1") == [Counters()]


@pytest.mark.parametrize("booted", [False, True], ids=["by hand", "at a boot"])
def test_loaded_anew(host: Host, own_file: str, booted: bool) -> None:
    """nft counts from zero then, and that comes to what there was; a quota has what is left of it in nft."""
    host.rules("-A INPUT -p udp --dport 8", f"-A INPUT -p udp --dport 7 -m quota --quota {QUOTA} -j ACCEPT")
    host.send(8, 4)
    host.migrate("apply")
    host.send(8, 2)
    host.migrate("confirm", "--config", own_file)
    host.namespace.run(["nft", "-f", own_file])
    if booted:  # then the kernel says that it is another one, and gives handles from the first again
        with host.namespace:
            record.keep(ties.FILE, record.kept(ties.FILE).replace(record.boot(), "an earlier boot"))
    host.send(8, 10)
    host.send(7, 3)
    told = host.migrate("rollback").stdout
    assert ("what iptables dropped in the milliseconds" in told) == booted
    assert host.counted("--dport 8") == [Counters(4 + 10, (4 + 10) * SIZE)]
    assert f"--quota {QUOTA - 3 * SIZE}" in host.namespace.run("iptables-legacy-save").stdout


@pytest.mark.parametrize("confirmed", [False, True], ids=["applied", "confirmed"])
def test_nft_is_gone(host: Host, confirmed: bool) -> None:
    """Somebody has flushed it: the rules of iptables come back all the same, with what they had counted."""
    host.rules("-A INPUT -p udp --dport 8", f"-A INPUT -p udp --dport 7 -m quota --quota {QUOTA} -j ACCEPT")
    host.send(8, 4)
    host.migrate("apply")
    host.send(8, 2)
    if confirmed:
        host.migrate("confirm")
    host.namespace.run("nft flush ruleset")
    host.migrate("rollback")
    assert host.counted("--dport 8") == [Counters(4, 4 * SIZE)]
    assert "In force: iptables." in host.migrate("status").stdout


@pytest.fixture
def own_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("config") / "nftables.conf")


@pytest.mark.parametrize("confirmed", [False, True], ids=["applied", "confirmed"])
def test_sets_of_ipset(host: Host, confirmed: bool) -> None:
    """Elements that rules of nft, or people, have added, renewed and deleted; others that have come to ipset stay."""
    for command in (
        "ipset create banned hash:ip timeout 600 comment",
        "ipset add banned 192.0.2.1 timeout 400 comment mine",
        "ipset add banned 127.0.0.3 timeout 100 comment known",
        "ipset create flows hash:ip,port",
        "ipset add flows 127.0.0.1,udp:21",
        "ipset add flows 127.0.0.1,udp:99",
        "ipset create ever hash:ip timeout 0",
    ):
        host.namespace.run(command.split())
    host.rules(
        "-A INPUT -p udp --dport 19 -j SET --add-set banned src --exist --timeout 500",
        "-A INPUT -p udp --dport 20 -j SET --add-set flows dst,dst",
        "-A INPUT -p udp --dport 21 -j SET --del-set flows dst,dst",
        "-A INPUT -m set --match-set ever src -j DROP",
    )
    host.migrate("apply")
    for port in (20, 21):
        host.send(port)
    host.send(19, source="127.0.0.2")
    host.send(19, source="127.0.0.3")
    host.namespace.run("nft add element ip filter ever { 192.0.2.77 }")
    host.namespace.run("ipset add banned 192.0.2.2 timeout 300")
    if confirmed:
        host.migrate("confirm")
        host.namespace.run("ipset destroy")
    told = host.migrate("rollback").stdout
    assert "lost" not in told
    banned, text = host.elements("banned"), host.namespace.run("ipset save banned").stdout
    others = {} if confirmed else {"192.0.2.2"}
    assert banned.keys() == {"192.0.2.1", "127.0.0.2", "127.0.0.3", *others}
    assert all(450 < (banned[each] or 0) <= 500 for each in ("127.0.0.2", "127.0.0.3"))
    assert 350 < (banned["192.0.2.1"] or 0) <= 400
    assert ('comment "known"' in text, 'comment "mine"' in text) == (True, True)
    assert host.elements("flows") == {"127.0.0.1,udp:20": None, "127.0.0.1,udp:99": None}
    assert host.elements("ever") == {"192.0.2.77": 0}


@pytest.mark.parametrize("confirmed", [False, True], ids=["applied", "confirmed"])
def test_lists_of_recent(host: Host, confirmed: bool) -> None:
    """Who came, who was seen again and how often, who was taken off; a hit is counted once."""
    host.rules(
        "-A INPUT -p udp --dport 31 -m recent --name hits --set",
        "-A INPUT -p udp --dport 32 -m recent --name hits --rcheck --seconds 600 --hitcount 6 -j DROP",
        "-A INPUT -p udp --dport 33 -m recent --name door --set",
        "-A INPUT -p udp --dport 34 -m recent --name door --remove",
    )
    host.send(31, 2, "127.0.0.2")
    host.send(31, 1, "127.0.0.3")
    for source in ("127.0.0.2", "127.0.0.3"):
        host.send(33, 1, source)
    host.migrate("apply")
    host.send(31, 3, "127.0.0.2")
    host.send(31, 2, "127.0.0.4")
    host.send(34, 1, "127.0.0.2")
    host.send(33, 1, "127.0.0.5")
    if confirmed:
        host.migrate("confirm")
    host.migrate("rollback")
    assert host.listed("hits") == {"127.0.0.3": 1, "127.0.0.2": 5, "127.0.0.4": 2}
    assert host.listed("door").keys() == {"127.0.0.3", "127.0.0.5"}
    host.send(32, 1, "127.0.0.2")
    host.send(31, 1, "127.0.0.2")
    host.send(32, 1, "127.0.0.2")
    assert host.counted("--dport 32") == [Counters(1, SIZE)]


def test_interrupted_while_nft_stands_still(host: Host) -> None:
    """The rules of iptables are in force and status knows; rollback ends it, and tells what it cannot know any more."""
    host.rules("-A INPUT -p udp --dport 8")
    host.migrate("apply")
    for command in (
        "nft add table ip filter { flags dormant; }",
        "iptables-legacy -D INPUT 1", "iptables-legacy -D FORWARD 1", "iptables-legacy -D OUTPUT 1",
    ):  # fmt: skip
        host.namespace.run(command)
    assert "In force: iptables." in host.migrate("status").stdout
    assert "is not added" in host.migrate("rollback").stdout
    assert host.namespace.run("nft list ruleset").stdout == ""
    assert "In force: iptables." in host.migrate("status").stdout


def test_rules_that_others_loaded_after_the_confirmation(host: Host) -> None:
    """A late rollback replaces them, and says so."""
    host.rules("-A INPUT -p udp --dport 8")
    host.migrate("apply")
    host.migrate("confirm")
    host.rules("-A INPUT -s 192.0.2.9 -j DROP")
    told = host.migrate("rollback").stdout
    assert re.search(r"rule .*lost .*-s 192.0.2.9/32 -j DROP", told)
    assert "192.0.2.9" not in host.namespace.run("iptables-legacy-save").stdout
