"""connlimit counts through rule changes: real connections, the real kernel, every shape of rule."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

import pytest
from limited import DIALS, LIMIT, Service, Shape, assert_count_kept
from rounds import rounds

import nfkeep
from nfkeep import Family, Fidelity, StateLossError
from nfkeep.keep.selftest import Counting, probe_counting
from nfkeep.testing import EchoServer, close_all, dial, living, sysctl, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from nfkeep.testing.fixtures import TransferFactory

pytestmark = pytest.mark.kernel

NEW = "-m conntrack --ctstate NEW"
INPUT = Shape("IPv4 TCP INPUT")
SHAPES = (
    INPUT,
    Shape("IPv4 TCP INPUT, -i and ctstate NEW", condition=f"-i cli0 {NEW}"),
    Shape("IPv4 TCP FORWARD, DNAT and MASQUERADE", chain="FORWARD", nat=True, condition=f"-i cli0 -o srv0 {NEW}"),
    Shape("IPv4 UDP INPUT", kind="udp"),
    Shape("IPv6 TCP INPUT, -i and ctstate NEW", Family.IPV6, condition=f"-i cli0 {NEW}"),
    Shape("IPv6 TCP FORWARD, DNAT and MASQUERADE", Family.IPV6, chain="FORWARD", nat=True, condition="-i cli0"),
    Shape("IPv4 UDP FORWARD, DNAT and MASQUERADE", kind="udp", chain="FORWARD", nat=True, condition="-i cli0"),
    Shape("IPv6 UDP INPUT", Family.IPV6, kind="udp"),
)

Start = "Callable[..., Service]"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_count_survives_a_transaction(start_service: Start, shape: Shape) -> None:
    """A rule appended in a transaction leaves the count as it was, and the report says so."""
    service = start_service(shape)
    reports: list[nfkeep.Report] = []
    assert_count_kept(service, lambda: reports.append(service.append_unrelated()))
    (outcome,) = reports[0].outcomes
    assert (outcome.kind, outcome.fidelity) == ("connlimit", Fidelity.RESTORED)
    assert "10 live flows" in outcome.detail
    assert 0 < reports[0].gate_seconds < 5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_count_survives_the_command(start_service: Start, shape: Shape) -> None:
    """`nfkeep iptables -A …` runs the real iptables, and the count stays."""
    service = start_service(shape)
    assert_count_kept(service, lambda: service.command(f"-A {shape.chain} {shape.unrelated}"))
    assert shape.unrelated.split()[1] in service.gateway.run(f"{shape.iptables} -S").stdout


@pytest.mark.parametrize("shape", SHAPES[:6], ids=str)
def test_plain_iptables_forgets_the_count(start_service: Start, shape: Shape) -> None:
    """The fault itself: without nfkeep the same change lets ten more in. If this fails, those above prove nothing."""
    service = start_service(shape)
    assert len(service.dial()) == LIMIT
    service.plain(f"-A {shape.chain} {shape.unrelated}")
    assert len(service.dial()) == LIMIT


OTHER_RULES = {
    "upto that accepts, and a drop behind it": [
        "-A INPUT -p tcp --syn --dport 873 -m connlimit --connlimit-upto 10 -j ACCEPT",
        "-A INPUT -p tcp --syn --dport 873 -j DROP",
    ],
    "behind a rule that accepts what is established": [
        "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "-A INPUT -p tcp --dport 873 -m connlimit --connlimit-above 10 -j DROP",
    ],
    "counted by destination": [
        "-A INPUT -p tcp --syn --dport 873 -m connlimit --connlimit-above 10 --connlimit-daddr -j DROP",
    ],
    "counted by network": [
        "-A INPUT -p tcp --syn --dport 873 -m connlimit --connlimit-above 10 --connlimit-mask 8 -j DROP",
    ],
    "counted as one": [
        "-A INPUT -p tcp --syn --dport 873 -m connlimit --connlimit-above 10 --connlimit-mask 0 -j DROP",
    ],
    "several limits, the last one bites": [
        "-A INPUT -p tcp --syn --dport 873 -m connlimit --connlimit-above 30 --connlimit-mask 0 -j DROP",
        "-A INPUT -p tcp --syn -m connlimit --connlimit-above 20 --connlimit-mask 24 -j DROP",
        "-A INPUT -p tcp --syn -m multiport --dports 22,870:879 -m connlimit --connlimit-above 10 -j DROP",
    ],
    "two jumps deep in user chains": [
        "-N services",
        "-N rsync",
        "-A INPUT -p tcp -j services",
        "-A services -p tcp --dport 873 -j rsync",
        "-A rsync -m connlimit --connlimit-above 10 -j DROP",
    ],
    "behind a goto, from two chains": [
        "-N limited",
        "-A INPUT -p tcp --dport 873 -g limited",
        "-A FORWARD -p tcp -g limited",
        "-A limited -p tcp --syn -m connlimit --connlimit-above 10 -j REJECT",
    ],
    "any packet, no SYN asked for": [
        "-A INPUT -s 10.9.0.0/16 -p tcp --dport 873 -m connlimit --connlimit-above 10 -j DROP",
    ],
}


@pytest.mark.parametrize("rules", OTHER_RULES.values(), ids=OTHER_RULES)
def test_count_survives_in_other_rules(start_service: Start, rules: list[str]) -> None:
    """Whatever form the limit has, an unrelated change leaves it alone."""
    service = start_service(INPUT, rules=rules)
    change = service.append_unrelated
    assert_some_kept(service, change)


def assert_some_kept(service: Service, change: Callable[[], nfkeep.Report]) -> None:
    old = one_by_one(service, DIALS)
    assert len(old) == LIMIT
    report = change()
    assert {o.fidelity for o in report.outcomes if o.kind == "connlimit"} == {Fidelity.RESTORED}
    assert len(one_by_one(service, 4)) == 0
    assert len(living(old)) == LIMIT
    close_all(old[:3])
    admitted: list[object] = []
    wait_until(lambda: admitted.extend(one_by_one(service, 6)) or len(admitted) >= 3, interval=0.02)
    assert len([*admitted, *one_by_one(service, 3)]) == 3


def one_by_one(service: Service, count: int) -> list[object]:
    """Rules that judge every packet refuse even old connections while attempts beyond the limit are in flight."""
    return [connection for _ in range(count) for connection in service.dialer(
        service.network.client, Family.IPV4, "tcp", service.address, 873, 1, timeout=0.2)]  # fmt: skip


OUTPUT = (Shape("IPv4 OUTPUT", chain="OUTPUT"), Shape("IPv6 OUTPUT", Family.IPV6, chain="OUTPUT"))


@pytest.mark.parametrize("shape", OUTPUT, ids=str)
def test_count_of_the_host_itself_survives(start_service: Start, shape: Shape) -> None:
    """A limit on what this host opens itself, in OUTPUT, is kept as well."""
    service = start_service(shape)
    address = service.network.server_address(shape.family)
    with EchoServer(service.network.server, shape.family, "tcp", address, 873):
        old = dial(service.gateway, shape.family, "tcp", address, 873, DIALS, timeout=0.5)
        assert len(old) == LIMIT
        report = service.append_unrelated()
        assert report.outcomes[0].fidelity is Fidelity.RESTORED
        assert dial(service.gateway, shape.family, "tcp", address, 873, DIALS, timeout=0.5) == []
        assert len(living(old)) == LIMIT
        close_all(old)


def test_a_changed_limit_keeps_its_count(start_service: Start) -> None:
    """Raising a limit from ten to twelve in place lets exactly two more in."""
    service = start_service(INPUT)
    old = service.dial()
    new_rule = INPUT.rule(873).replace("above 10", "above 12")
    report = service.keep(lambda tx: tx.replace("INPUT", 1, new_rule))
    assert report.outcomes[0].fidelity is Fidelity.RESTORED
    assert len(service.dial_again(2)) == 2
    assert len(living(old)) == LIMIT


def test_a_lowered_limit_breaks_no_connection(start_service: Start) -> None:
    """With a limit below what is live nobody gets in, and REJECT --reject-with tcp-reset harms none of the old ones."""
    service = start_service(Shape("NAT", chain="FORWARD", nat=True))
    old = service.dial()
    new_rule = service.shape.rule(8730).replace("above 10", "above 4")
    service.keep(lambda tx: tx.replace("FORWARD", 1, new_rule))
    assert service.dial() == []
    assert len(living(old)) == LIMIT
    states = service.gateway.run("conntrack -L -p tcp --orig-port-dst 873").stdout
    assert states.count("ESTABLISHED") == LIMIT


def test_two_thousand_connections_of_two_hundred_clients(start_service: Start, transfer: TransferFactory) -> None:
    """No connection reset, no byte lost, no client over its limit and none under it, while fifty transfer data."""
    service = start_service(INPUT, clients=200)
    sources = service.network.client_addresses(Family.IPV4)

    def dial_each(count: int) -> list[object]:
        sources_in_turn = [source for source in sources for _ in range(count)]
        return service.dialer(service.network.client, Family.IPV4, "tcp", service.address, 873, len(sources_in_turn),
                              source=sources_in_turn, timeout=2.0)  # fmt: skip

    old = dial_each(12)
    assert len(old) == 2000
    transfers = [transfer(connection) for connection in old[::40]]
    for _ in range(5):
        report = service.append_unrelated()
        assert report.outcomes[0].fidelity is Fidelity.RESTORED
    assert dial_each(2) == []
    results = [one.stop() for one in transfers]
    assert all(result.intact for result in results)
    assert service.server.resets == 0
    assert len(living(old)) == 2000
    gone = old[:: len(old) // 20][:20]
    freed = sorted(connection.local[0] for connection in gone)
    close_all(gone)
    admitted: list[object] = []
    wait_until(lambda: admitted.extend(dial_each(2)) or len(admitted) >= len(gone), interval=0.02)
    admitted += dial_each(2)
    assert sorted(connection.local[0] for connection in admitted) == freed


def test_nobody_slips_in_during_a_hundred_changes(start_service: Start) -> None:
    """Connections are attempted without a pause while the rules change a hundred times: none gets in over the limit."""
    service = start_service(INPUT)
    old = service.dial()
    slipped: list[object] = []
    attempts = [0]
    stop = threading.Event()

    def attempt() -> None:
        while not stop.is_set():
            slipped.extend(
                service.dialer(service.network.client, Family.IPV4, "tcp", service.address, 873, 8, timeout=0.3)
            )
            attempts[0] += 8

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(rounds(100)):
            service.keep(lambda tx, n=number: tx.insert("INPUT", f"-s 192.0.2.{n + 1} -j DROP"))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert slipped == []
    assert attempts[0] > rounds(100)
    assert len(living(old)) == LIMIT


def test_a_change_that_would_lose_state_can_be_refused(start_service: Start) -> None:
    """With on_loss="refuse" a hazard on the way raises StateLossError, and nothing is changed."""
    rules = [
        "-A INPUT -p tcp --dport 873 -m recent --name seen --set",
        "-A INPUT -p tcp --syn --dport 873 -m connlimit --connlimit-above 10 -j DROP",
    ]
    service = start_service(INPUT, rules=rules)
    before = service.gateway.run("iptables-legacy -S").stdout
    with service.gateway, pytest.raises(StateLossError) as caught, nfkeep.transaction(on_loss="refuse") as tx:
        tx.append("INPUT", INPUT.unrelated)
    (lost,) = caught.value.outcomes
    assert (lost.kind, lost.fidelity) == ("connlimit", Fidelity.LOST)
    assert "recent" in lost.detail
    assert service.gateway.run("iptables-legacy -S").stdout == before


def test_a_ban_of_a_limited_client_leaves_the_others_counted(start_service: Start) -> None:
    """A client banned at the top while it has connections: the counts of all others stay exact."""
    service = start_service(INPUT, clients=2)
    first, second = service.network.client_addresses(Family.IPV4)

    def dial_from(source: object, count: int) -> list[object]:
        return service.dialer(service.network.client, Family.IPV4, "tcp", service.address, 873, count, source=source,
                              timeout=0.5)  # fmt: skip

    assert len(dial_from(first, DIALS)) == len(dial_from(second, DIALS)) == LIMIT
    report = service.keep(lambda tx: tx.insert("INPUT", f"-s {first} -j DROP"))
    assert dial_from(second, DIALS) == []
    outcome = report.outcomes[0]
    assert outcome.fidelity is Fidelity.APPROXIMATED
    assert "10 opening packets were refused" in outcome.detail


def test_flows_that_no_limit_counts_are_not_touched(start_service: Start) -> None:
    """Connections to another port keep their entry with its accounting; those under the limit begin a new one."""
    service = start_service(INPUT)
    sysctl(service.gateway, "net.netfilter.nf_conntrack_acct", 1)
    with EchoServer(service.gateway, Family.IPV4, "tcp", service.address, 874):
        other = service.dialer(service.network.client, Family.IPV4, "tcp", service.address, 874, 5)
        limited = service.dial()
        before = {port: packets(service, port) for port in (873, 874)}
        service.append_unrelated()
        after = {port: packets(service, port) for port in (873, 874)}
        assert len(before[874]) == 5
        assert after[874] == before[874]
        assert len(after[873]) == LIMIT
        assert max(after[873]) < min(before[873])
        assert len(living([*other, *limited])) == 5 + LIMIT
        close_all(other)


def packets(service: Service, port: int) -> list[int]:
    """Packets of the original direction that conntrack has counted for each connection to a port."""
    listed = service.gateway.run(f"conntrack -L -p tcp --orig-port-dst {port}").stdout.splitlines()
    return sorted(int(re.findall(r"packets=(\d+)", line)[0]) for line in listed if "ESTABLISHED" in line)


def test_connections_of_the_host_to_itself_are_counted(start_service: Start) -> None:
    """A limit in INPUT also counts what comes over the loopback, and keeps counting it."""
    service = start_service(INPUT)
    arguments = (service.gateway, Family.IPV4, "tcp", service.address, 873)
    old = dial(*arguments, DIALS, timeout=0.5)
    assert len(old) == LIMIT
    assert service.append_unrelated().outcomes[0].fidelity is Fidelity.RESTORED
    assert dial(*arguments, DIALS, timeout=0.5) == []
    assert len(living(old)) == LIMIT
    close_all(old)


@pytest.mark.parametrize("table", ["mangle", "raw"])
def test_limits_in_other_tables(start_service: Start, table: str) -> None:
    """A limit in PREROUTING of mangle, or of raw where conntrack has not seen the packet yet, is kept as well."""
    rule = "-p tcp --syn --dport 873 -m connlimit --connlimit-above 10 -j DROP"
    service = start_service(INPUT, rules=[f"-t {table} -A PREROUTING {rule}"])
    old = service.dial()
    assert len(old) == LIMIT
    report = service.keep(lambda tx: tx.append("PREROUTING", INPUT.unrelated), table)
    assert report.outcomes[0].fidelity is Fidelity.RESTORED
    assert service.dial() == []
    assert len(living(old)) == LIMIT


def test_a_change_of_another_table_leaves_the_count_alone(start_service: Start) -> None:
    """Limits live in their own table: changing nat or mangle neither resets nor touches anything."""
    service = start_service(INPUT)
    old = service.dial()
    assert service.keep(lambda tx: tx.append("INPUT", INPUT.unrelated), "mangle") == nfkeep.Report()
    assert service.dial() == []
    assert len(living(old)) == LIMIT


@pytest.mark.parametrize("family", list(Family), ids=str)
def test_this_kernel_can_be_made_to_count(family: Family) -> None:
    """The self-test finds a way here; a kernel on which it finds none fails this test instead of skipping others."""
    assert probe_counting(family) is not Counting.NEITHER


def test_marks_of_connections_stay_what_they_are(start_service: Start) -> None:
    """A rule that marks connections as they open meets the opening packets again, and the mark is put back."""
    opening = "-t mangle -A PREROUTING -p tcp --syn -j CONNMARK --set-mark 7"
    later = "-t mangle -A PREROUTING -m conntrack --ctstate ESTABLISHED -j CONNMARK --set-mark 5"
    service = start_service(INPUT, rules=[opening, later, f"-A INPUT {INPUT.rule(873)}"])
    old = service.dial()
    assert service.append_unrelated().outcomes[0].fidelity is Fidelity.RESTORED
    listed = service.gateway.run("conntrack -L -p tcp --orig-port-dst 873").stdout.splitlines()
    assert [line for line in listed if "ESTABLISHED" in line and "mark=5 " not in line] == []
    assert service.dial() == []
    assert len(living(old)) == LIMIT


def test_limits_by_network_in_user_chains_over_ipv6(start_service: Start) -> None:
    """A /64 as the key, behind a multiport jump."""
    rules = [
        "-N limited",
        "-A INPUT -p tcp -m multiport --dports 80,870:880 -j limited",
        "-A limited -s fd09::/64 -m connlimit --connlimit-above 10 --connlimit-mask 64 -j DROP",
    ]
    service = start_service(Shape("IPv6", Family.IPV6), rules=rules, clients=20)
    sources = service.network.client_addresses(Family.IPV6)

    def dial_each(addresses: tuple[object, ...]) -> list[object]:
        return [c for one in addresses for c in service.dialer(
            service.network.client, Family.IPV6, "tcp", service.address, 873, 1, source=one, timeout=0.2)]  # fmt: skip

    old = dial_each(sources[:14])
    assert len(old) == LIMIT
    assert service.append_unrelated().outcomes[0].fidelity is Fidelity.RESTORED
    assert dial_each(sources[14:]) == []
    assert len(living(old)) == LIMIT


def test_chains_of_nftables_on_the_way_are_named(start_service: Start) -> None:
    """Opening packets also pass base chains of nftables, and the report names these; chains behind are not passed."""
    service = start_service(INPUT)
    tables = [
        ("ip early", "input", -10, "tcp dport 873 counter accept"),
        ("inet first", "prerouting", -150, "counter"),
        ("ip late", "input", 10, "counter"),
        ("ip6 other", "input", -10, "counter"),
        ("ip out", "output", -10, "counter"),
    ]
    script = ["add table ip empty", "add chain ip empty c { type filter hook input priority -10; }"]
    for table, hook, priority, rule in tables:
        chain = f"{{ type filter hook {hook} priority {priority}; }}"
        script += [f"add table {table}", f"add chain {table} c {chain}", f"add rule {table} c {rule}"]
    service.gateway.run("nft -f -", input="\n".join([*script, ""]))
    service.dial()
    report = service.append_unrelated()
    named = {outcome.where: outcome.detail for outcome in report.outcomes if outcome.kind == "nftables"}
    assert set(named) == {"table ip early", "table inet first"}
    assert "base chains c " in named["table ip early"]
    assert report.outcomes[0].fidelity is Fidelity.RESTORED


def test_a_limit_that_becomes_reachable_was_empty(start_service: Start) -> None:
    """A rule in a chain that nothing led to counted nobody: nothing is restored, and nothing is called lost."""
    service = start_service(INPUT, rules=["-N x", f"-A x {INPUT.rule(873)}"])
    service.dial(3)
    assert service.keep(lambda tx: tx.append("INPUT", "-j x")) == nfkeep.Report()
