"""The health check of legacy tables on a real kernel: it changes nothing, and the commands that it gives work."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
from typing import TYPE_CHECKING

import pytest
from limited import DIALS, LIMIT, Service, Shape

import nfkeep
from nfkeep import Family
from nfkeep.keep import health, health_kernel
from nfkeep.keep.health_finding import Finding, Severity
from nfkeep.testing import EchoServer, close_all, dial, living, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from nfkeep.testing import Connection, Namespace

pytestmark = pytest.mark.kernel

Start = "Callable[..., Service]"
Run = "Callable[[Namespace, str], str]"

SHAPES = (
    Shape("IPv4 TCP INPUT"),
    Shape("IPv6 TCP INPUT, -i and ctstate NEW", Family.IPV6, condition="-i cli0 -m conntrack --ctstate NEW"),
    Shape("IPv4 UDP INPUT", kind="udp"),
    Shape("IPv4 TCP FORWARD, DNAT and MASQUERADE", chain="FORWARD", nat=True, condition="-i cli0 -o srv0"),
    Shape("IPv6 UDP FORWARD, DNAT and MASQUERADE", Family.IPV6, "udp", "FORWARD", nat=True, condition="-i cli0"),
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run commands as somebody who copies them into a shell: each has to succeed; what they print."""
    script = tmp_path / "bin" / "nfkeep"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom nfkeep.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}"}

    def run(namespace: Namespace, commands: str) -> str:
        return namespace.run(["sh", "-ec", f"exec 2>&1\n{commands}"], env=environment, timeout=600.0).stdout

    return run


def findings(namespace: Namespace, about: str) -> list[Finding]:
    with namespace:
        return [finding for finding in health.examine() if about in finding.what]


def the_fix(namespace: Namespace, severity: Severity = Severity.WARN) -> str:
    """The commands for the one connlimit rule here."""
    [finding] = findings(namespace, "connlimit at ")
    assert finding.severity is severity
    return finding.fix


def assert_moved(service: Service, run: Run, severity: Severity = Severity.WARN) -> None:
    """The commands move the count with what is in it; after that plain iptables in filter leaves it alone."""
    shape, chain = service.shape, service.shape.chain
    old = service.dial()
    assert len(old) == LIMIT
    run(service.gateway, the_fix(service.gateway, severity))
    assert service.dial() == []
    service.plain(f"-A {chain} {shape.unrelated}")
    service.plain(f"-I {chain} {shape.unrelated}")
    assert service.dial() == []
    assert len(living(old)) == LIMIT
    [after] = findings(service.gateway, "connlimit at ")
    assert after.severity is Severity.OK
    assert f"{shape.family} mangle" in after.what
    if shape.kind == "tcp":
        close_all(old[:3])
        service.plain(f"-D {chain} 1")
        assert len(service.dial_again(3)) == 3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_moved_to_mangle_the_count_holds(start_service: Start, run: Run, shape: Shape) -> None:
    """The printed commands work: the limit holds through plain iptables in filter, and three that close make room."""
    assert_moved(start_service(shape), run)


def test_unmoved_it_does_not(start_service: Start) -> None:
    """What the move is for: where the rule stands in filter, plain iptables lets as many in again."""
    service = start_service(SHAPES[0])
    service.dial()
    service.plain(f"-A INPUT {SHAPES[0].unrelated}")
    assert len(service.dial()) == LIMIT


LIMIT_873 = SHAPES[0].rule(873)
AROUND = {
    "behind jumps of two chains": [
        *("-N outer", "-N inner", "-A INPUT -p tcp -j outer", "-A FORWARD -j outer"),
        *("-A outer -p tcp --dport 800:900 -j inner", f"-A inner {LIMIT_873}"),
    ],
    "behind exceptions": [
        *("-A INPUT -p tcp -s 10.9.0.8 -j ACCEPT", "-A INPUT -i srv0 -j ACCEPT"),
        f"-A INPUT {LIMIT_873}",
    ],
    "with a mask, read from a file": [f"-A INPUT {LIMIT_873.replace('above 10', 'above 10 --connlimit-mask 32')}"],
    "mangle accepts": ["-t mangle -A INPUT -p tcp -j ACCEPT", f"-A INPUT {LIMIT_873}"],
    "mangle has a chain of that name": ["-t mangle -N x", "-N x", "-A INPUT -j x", f"-A x {LIMIT_873}"],
    "a comment with quotes": [f"-A INPUT -m comment --comment \"it's $1 \\\"x\\\"\" {LIMIT_873}"],
    "the other way round": [
        f"-A INPUT {LIMIT_873.replace('-above', '-upto').replace('-j REJECT --reject-with tcp-reset', '-j ACCEPT')}",
        "-A INPUT -p tcp --syn --dport 873 -j REJECT --reject-with tcp-reset",
    ],
    "the bit comes along from elsewhere": [
        "-t raw -A PREROUTING -j MARK --set-xmark 0x20000000/0x20000000",
        f"-A INPUT {LIMIT_873}",
    ],
}  # fmt: skip


@pytest.mark.parametrize("rules", AROUND.values(), ids=AROUND)
def test_moved_from_among_other_rules(start_service: Start, run: Run, rules: list[str]) -> None:
    """It does so as well in a chain, behind others, and beside what mangle does already."""
    assert_moved(start_service(SHAPES[0], rules=rules), run)


def test_moved_past_what_would_be_disturbed(start_service: Start, run: Run) -> None:
    """A rule that nfkeep does not count again, for a list of recent before it, is counted again in mangle."""
    service = start_service(SHAPES[0], rules=["-A INPUT -p tcp -m recent --name seen --set", f"-A INPUT {LIMIT_873}"])
    assert_moved(service, run, Severity.BAD)


def test_moved_one_after_the_other(start_service: Start, run: Run) -> None:
    """Two rules that share packets have a bit each, and the second move keeps the count of the first."""
    rules = [
        f"-A INPUT {LIMIT_873.replace('above 10', 'above 12').replace('--dport 873', '')}",
        f"-A INPUT {LIMIT_873}",
    ]
    service = start_service(SHAPES[0], rules=rules)
    with EchoServer(service.gateway, Family.IPV4, "tcp", service.address, 874):
        assert len(service.dial()) == LIMIT
        for finding in findings(service.gateway, "connlimit at "):
            run(service.gateway, finding.fix)
        service.plain(f"-A INPUT {SHAPES[0].unrelated}")
        assert service.dial() == []
        client = service.network.client
        admitted: list[Connection] = []

        def both() -> bool:
            """Attempts that were refused at the other port are in the count for two ticks."""
            admitted.extend(service.dialer(client, Family.IPV4, "tcp", service.address, 874, DIALS, timeout=1.0))
            return len(admitted) >= 2

        wait_until(both, timeout=5.0, interval=0.02)
        assert len(admitted) == 2
        assert [each.severity for each in findings(service.gateway, "connlimit at ")] == [Severity.OK] * 2


@pytest.mark.parametrize("family", Family, ids=str)
def test_moved_in_output(start_service: Start, run: Run, family: Family) -> None:
    """The same for what the host itself opens."""
    shape = Shape("OUTPUT", family, chain="OUTPUT")
    service = start_service(shape)
    address = service.network.server_address(family)
    with EchoServer(service.network.server, family, "tcp", address, 873):
        old = dial(service.gateway, family, "tcp", address, 873, DIALS, timeout=0.5)
        assert len(old) == LIMIT
        run(service.gateway, the_fix(service.gateway))
        service.plain(f"-A OUTPUT {shape.unrelated}")
        assert dial(service.gateway, family, "tcp", address, 873, DIALS, timeout=0.5) == []
        assert len(living(old)) == LIMIT
        close_all(old)


def test_a_mark_from_elsewhere_does_no_harm(start_service: Start, run: Run) -> None:
    """Packets that already carry the bit pass as long as the count is below the limit."""
    service = start_service(SHAPES[0])
    fix = the_fix(service.gateway)
    run(service.gateway, fix)
    found = re.search(r"--mark (\S+)", fix)
    assert found is not None
    service.plain(f"-t raw -A PREROUTING -j MARK --set-xmark {found[1]}")
    assert len(service.dial()) == LIMIT


def test_what_passes_and_what_does_not(start_service: Start, run: Run) -> None:
    """After the move other ports and other clients pass as before, other bits of the mark stay, and REJECT answers."""
    service = start_service(SHAPES[0], clients=2)
    network, gateway = service.network, service.gateway
    service.plain("-t mangle -A PREROUTING -j MARK --set-mark 5")
    service.plain("-A INPUT -p tcp --dport 874 -m mark ! --mark 5 -j DROP")
    with EchoServer(gateway, Family.IPV4, "tcp", service.address, 874):
        old = service.dial()
        run(gateway, the_fix(gateway))
        assert len(service.dialer(network.client, Family.IPV4, "tcp", service.address, 874, DIALS)) == DIALS
        other = network.client_addresses(Family.IPV4)[1]
        admitted = service.dialer(network.client, Family.IPV4, "tcp", service.address, 873, DIALS, source=other)
        assert len(admitted) == LIMIT
        with gateway:
            before = nfkeep.read("filter").chains["INPUT"].rules[0]
        assert service.dial() == []
        with gateway:
            after = nfkeep.read("filter").chains["INPUT"].rules[0]
        assert "-m mark --mark" in str(after)
        assert str(after).endswith("-j REJECT --reject-with tcp-reset")
        assert after.counters.packets - before.counters.packets == DIALS
        assert len(living(old)) == LIMIT


def test_exceptions_stay_exceptions(start_service: Start, run: Run) -> None:
    """What a rule before the limit accepts is not counted in mangle either, also where all clients share one count."""
    free = "-A INPUT -s 10.9.0.3 -p tcp -j ACCEPT"
    shared = f"-A INPUT {LIMIT_873.replace('above 10', 'above 10 --connlimit-mask 0')}"
    service = start_service(SHAPES[0], rules=[free, shared], clients=2)
    network = service.network
    run(service.gateway, the_fix(service.gateway))
    other = network.client_addresses(Family.IPV4)[1]
    assert str(other) == "10.9.0.3"
    assert len(service.dialer(network.client, Family.IPV4, "tcp", service.address, 873, DIALS, source=other)) == DIALS
    assert len(service.dial()) == LIMIT


def test_a_larger_set(namespace: Namespace, run: Run) -> None:
    """The commands for a full set put all its entries into a larger one of the same name, and the rule uses that."""
    run(namespace, "ipset create full hash:ip,port maxelem 4 timeout 600 counters")
    run(namespace, "".join(f"ipset add full 192.0.2.{n},tcp:80\n" for n in range(4)))
    namespace.run("iptables-legacy -A INPUT -m set --match-set full src,dst -j DROP")
    [found] = findings(namespace, "ipset full")
    assert found.severity is Severity.BAD
    run(namespace, found.fix)
    listing = namespace.run("ipset list full").stdout
    assert "maxelem 8" in listing
    assert listing.count("192.0.2.") == 4
    assert "References: 1" in listing
    assert namespace.run("ipset list -n").stdout == "full\n"
    assert [each.severity for each in findings(namespace, "ipset")] == [Severity.OK]


@pytest.mark.parametrize(("family", "command"), [(Family.IPV4, "iptables"), (Family.IPV6, "ip6tables")])
def test_more_buckets(namespace: Namespace, run: Run, family: Family, command: str) -> None:
    """The command for a full table of hashlimit puts the rule into its place with a larger table."""
    told = "-p tcp -m hashlimit --hashlimit-upto 9/hour --hashlimit-mode dstport --hashlimit-name full"
    told += " --hashlimit-htable-size 4 --hashlimit-htable-max 4"
    namespace.run(f"{command}-legacy -A OUTPUT -p udp -j ACCEPT")
    namespace.run(f"{command}-legacy -A OUTPUT {told} -j ACCEPT")
    loopback = "::1" if family is Family.IPV6 else "127.0.0.1"
    for port in range(1, 5):
        assert dial(namespace, family, "tcp", loopback, port, 1, timeout=0.2) == []
    [found] = findings(namespace, "hashlimit table")
    assert (found.severity, found.what) == (Severity.BAD, f"hashlimit table {family} full: 4 of 4 buckets")
    run(namespace, found.fix)
    with namespace:
        rule = str(nfkeep.read("filter", family).chains["OUTPUT"].rules[1])
    assert "--hashlimit-name full-2 --hashlimit-htable-size 4 --hashlimit-htable-max 8" in rule
    assert findings(namespace, "hashlimit table") == []


@pytest.mark.parametrize(("family", "command"), [(Family.IPV4, "iptables"), (Family.IPV6, "ip6tables")])
def test_a_bucket_that_stays(namespace: Namespace, run: Run, family: Family, command: str) -> None:
    """The command for a limit of packets puts a bucket in its place that plain iptables leaves as empty as it is."""
    loopback = "::1" if family is Family.IPV6 else "127.0.0.1"

    def passed(packets: int) -> int:
        """How many of so many packets the rule lets through."""

        def count() -> int:
            with namespace:
                return nfkeep.read("filter", family).chains["OUTPUT"].rules[0].counters.packets

        before = count()
        with namespace, socket.socket(family.value, socket.SOCK_DGRAM) as sender:
            for _ in range(packets):
                with contextlib.suppress(
                    PermissionError, ConnectionRefusedError
                ):  # a dropped packet is told to its sender
                    sender.sendto(b"x", (loopback, 9))
        return count() - before

    namespace.run(f"{command}-legacy -A OUTPUT -p udp -m limit --limit 3/hour --limit-burst 4 -j ACCEPT")
    namespace.run(f"{command}-legacy -A OUTPUT -p udp -j DROP")
    assert passed(6) == 4
    namespace.run(f"{command}-legacy -A INPUT -p tcp --dport 1 -j DROP")
    assert passed(6) == 4
    [found] = findings(namespace, "limit at ")
    run(namespace, found.fix)
    assert passed(6) == 4
    namespace.run(f"{command}-legacy -A INPUT -p tcp --dport 2 -j DROP")
    assert passed(6) == 0
    assert findings(namespace, "limit at ") == []


def rules(namespace: Namespace) -> str:
    commands = ["nft -s list ruleset", "iptables-legacy-save", "ip6tables-legacy-save", "ipset save", "ip -br link"]
    texts = [namespace.run(command).stdout for command in commands]
    return "\n".join(line for text in texts for line in text.splitlines() if not line.startswith("#"))


def test_looks_and_changes_nothing(namespace: Namespace) -> None:
    """Neither the look nor the self-test leaves anything, in a namespace with rules of all kinds."""
    for command in (
        "iptables-legacy -A INPUT -p tcp --syn -m connlimit --connlimit-above 3 -j DROP",
        "ip6tables-legacy -A FORWARD -m limit --limit 1/s -j ACCEPT",
        "iptables-legacy -A INPUT -m recent --name seen --set",
        "iptables-nft -A INPUT -j ACCEPT",
    ):
        namespace.run(command)
    before = rules(namespace)
    with namespace:
        health.examine()
    assert rules(namespace) == before


def test_on_a_host_without_rules(namespace: Namespace) -> None:
    """There is nothing but good news, in a few lines, and no table is set up by asking."""
    with namespace:
        found = health.examine()
    assert {each.severity for each in found} == {Severity.OK}
    assert found[-1].what == "there are no rules in legacy tables here"
    assert rules(namespace).strip().splitlines()[0].startswith("lo")


def test_two_worlds(namespace: Namespace) -> None:
    """Rules of iptables-nft beside legacy ones are told, with the order; ban lists in either are no such thing."""
    with namespace:
        nfkeep.BanList("a", "nft").open().close()
        nfkeep.BanList("b", "ipset").open().close()
        assert findings(namespace, "in nftables") == []
    namespace.run("iptables-legacy -N empty")
    namespace.run("nft add table inet firewall")
    namespace.run("nft add chain inet firewall in { type filter hook input priority -10 ; }")
    assert findings(namespace, "in nftables") == []
    namespace.run("nft add rule inet firewall in accept")
    assert findings(namespace, "in nftables") == []
    namespace.run("ip6tables-legacy -P FORWARD DROP")
    [found] = findings(namespace, "in nftables")
    assert found.what == "rules in legacy tables (IPv6 filter) and in nftables (inet firewall)"
    assert "update-alternatives" not in found.fix
    namespace.run("ip6tables-legacy -P FORWARD ACCEPT")
    namespace.run("iptables-legacy -A INPUT -j ACCEPT")
    namespace.run("iptables-nft -A INPUT -j ACCEPT")
    [found] = findings(namespace, "in nftables")
    assert found.what == (
        "rules in legacy tables (IPv4 filter) and in nftables (inet firewall, ip filter, made by iptables-nft)"
    )
    assert "IPv4 INPUT: inet firewall (-10), ip filter (0), legacy filter (0)" in found.why
    assert "update-alternatives" in found.fix


def test_without_a_namespace(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no namespace can be made, as in a container, that is said, and everything else is looked at."""

    def denied() -> None:
        raise nfkeep.PermissionDeniedError("making a network namespace")

    namespace.run("iptables-legacy -A INPUT -m quota --quota 9 -j ACCEPT")
    monkeypatch.setattr(health_kernel, "Namespace", denied)
    with namespace:
        found = health.examine()
    assert "not tested" in found[0].what
    assert [each.what.split()[0] for each in found[1:]] == ["quota"]


def test_the_command(namespace: Namespace, run: Run) -> None:
    """Several commands of one fix are printed one a line, as they are to be run; JSON has them as they are."""
    namespace.run("iptables-legacy -A INPUT -p tcp --syn -m connlimit --connlimit-above 3 -j DROP")
    printed = run(namespace, "nfkeep doctor").splitlines()
    objects = json.loads(run(namespace, "nfkeep doctor --json"))
    [limit] = [each for each in objects if each["what"].startswith("connlimit at ")]
    at = next(number for number, line in enumerate(printed) if line.endswith(limit["what"]))
    fix = limit["fix"].splitlines()
    assert len(fix) == 5
    assert printed[at + 2] == f"      fix: {fix[0]}"
    assert printed[at + 3 : at + 7] == [f"           {line}" for line in fix[1:]]
