"""Accounting objects (nfacct): they live beside the rules and count what passes, whatever becomes of the rules."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import pytest
from flood import ROUND, SENDERS, Flood, total
from limited import DIALS, LIMIT, Service, Shape

import nfkeep
from nfkeep import CommitError, Counters, Family, Fidelity, InvalidRuleError, Rule
from nfkeep.keep.command import run_iptables
from nfkeep.testing import EchoServer, living

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nfkeep.namespaces import Namespace

    Start = Callable[..., Service]

pytestmark = pytest.mark.kernel

TRANSACTIONS = 100
RULES = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:some - [0:0]
-A OUTPUT -p udp -m nfacct --nfacct-name all
-A OUTPUT -p udp --dport 7001 -m nfacct --nfacct-name first
-A OUTPUT -p udp -j some
-A some -p udp --dport 7001 -m nfacct --nfacct-name small -j RETURN
-A some -p udp --dport 7002 -m nfacct --nfacct-name small -j ACCEPT
COMMIT
"""

families = pytest.mark.parametrize("family", list(Family), ids=str)


def iptables(family: Family) -> str:
    return "iptables-legacy" if family is Family.IPV4 else "ip6tables-legacy"


def objects(namespace: Namespace) -> dict[str, Counters]:
    """What `nfacct list` says."""
    listed = namespace.run("nfacct list").stdout
    found = re.findall(r"pkts = (\d+), bytes = (\d+).*\} = (\w+);", listed)
    return {name: Counters(int(packets), int(size)) for packets, size, name in found}


def send(namespace: Namespace, family: Family, packets: int) -> None:
    """Datagrams to port 7001 of the host itself, each of 10 bytes and its headers."""
    with namespace, socket.socket(family.value, socket.SOCK_DGRAM) as sender:
        for _ in range(packets):
            sender.sendto(bytes(10), ("127.0.0.1" if family is Family.IPV4 else "::1", 7001))


@pytest.fixture
def flood(namespace: Namespace, family: Family) -> Iterator[Flood]:
    """Datagrams on lo, through RULES in the filter table."""
    for name in ("all", "first", "small"):
        namespace.run(f"nfacct add {name}")
    namespace.run(f"{iptables(family)}-restore", input=RULES)
    running = Flood(namespace, family)
    try:
        yield running
    finally:
        running.close()


def expect_exact(namespace: Namespace, sent: dict[int, Counters]) -> None:
    """The objects have counted all that was sent, and nothing twice."""
    assert min(each.packets for each in sent.values()) > SENDERS * ROUND, "nothing passed meanwhile"
    assert objects(namespace) == {
        "all": total(*sent.values()),
        "first": sent[7001],
        "small": total(sent[7001], sent[7002]),
    }


@families
def test_a_hundred_transactions(namespace: Namespace, family: Family, flood: Flood) -> None:
    """Under traffic at full rate every packet is counted once, and the report has nothing to say about it."""
    rule = f"-s {'192.0.2.1' if family is Family.IPV4 else 'fd99::1'} -j DROP"
    with namespace:
        for at in range(TRANSACTIONS):
            with nfkeep.transaction("filter", family, on_loss="refuse") as tx:
                if at % 2:
                    tx.delete("OUTPUT", position=1)
                else:
                    tx.insert("OUTPUT", rule)
            assert tx.report == nfkeep.Report()
    expect_exact(namespace, flood.stop())


@families
def test_changes_by_other_programs(namespace: Namespace, family: Family, flood: Flood) -> None:
    """So it is while iptables-restore writes the same rules again and again under `nfkeep.keep()`."""
    with namespace, nfkeep.keep() as kept:
        for _ in range(20):
            namespace.run(f"{iptables(family)}-restore", input=RULES)
    assert kept.report.outcomes == ()
    expect_exact(namespace, flood.stop())


def delete(family: Family, rule: str) -> nfkeep.Report | None:
    with nfkeep.transaction("filter", family, on_loss="refuse") as tx:
        tx.delete("OUTPUT", rule)
    return tx.report


def flush(family: Family, _: str) -> nfkeep.Report | None:
    with nfkeep.transaction("filter", family, on_loss="refuse") as tx:
        tx.flush("OUTPUT")
    return tx.report


def delete_by_command(family: Family, rule: str) -> nfkeep.Report | None:
    return run_iptables(family, ["-D", "OUTPUT", *rule.split()]).report


@families
@pytest.mark.parametrize("take_out", [delete, flush, delete_by_command])
def test_an_object_outlives_its_last_rule(
    namespace: Namespace, family: Family, take_out: Callable[[Family, str], nfkeep.Report | None]
) -> None:
    """It keeps its figures, is not held, and goes on when a rule names it again."""
    rule = "-p udp -m nfacct --nfacct-name x"
    each = 38 if family is Family.IPV4 else 58
    namespace.run("nfacct add x")
    with namespace:
        for passed in (3, 5):
            with nfkeep.transaction("filter", family) as tx:
                tx.append("OUTPUT", rule)
            send(namespace, family, passed)
            assert take_out(family, rule) == nfkeep.Report()
            send(namespace, family, 1)
            assert objects(namespace) == {"x": Counters(3 if passed == 3 else 8, each * (3 if passed == 3 else 8))}
    namespace.run("nfacct delete x")  # which the kernel refuses as long as some rule refers to it


@families
def test_text_is_that_of_iptables(namespace: Namespace, family: Family) -> None:
    """What we put in prints as what iptables puts in, byte for byte, and each takes out what the other has put in."""
    rule = "-p udp -m nfacct --nfacct-name x -j ACCEPT"
    namespace.run("nfacct add x")
    namespace.run(f"{iptables(family)} -A OUTPUT {rule}")
    with namespace:
        with nfkeep.transaction("filter", family) as tx:
            tx.append("OUTPUT", rule)
        theirs, ours = nfkeep.read("filter", family).chains["OUTPUT"].rules
        assert (ours.entry, str(ours)) == (theirs.entry, str(theirs))
        saved = namespace.run(f"{iptables(family)} -S OUTPUT").stdout.splitlines()[1:]
        assert saved == [f"-A OUTPUT {ours}"] * 2
        with nfkeep.transaction("filter", family) as tx:
            tx.delete("OUTPUT", str(theirs))
        namespace.run(f"{iptables(family)} -D OUTPUT {rule}")
        assert nfkeep.read("filter", family).chains["OUTPUT"].rules == ()


@families
@pytest.mark.parametrize("rule", ["-m nfacct", "-m nfacct --nfacct-name", "-m nfacct ! --nfacct-name x"])
def test_text_that_iptables_refuses(namespace: Namespace, family: Family, rule: str) -> None:
    """We refuse it as well, in the same words."""
    refused = namespace.run(f"{iptables(family)} -A OUTPUT {rule}", check=False)
    assert refused.returncode == 2
    with pytest.raises(InvalidRuleError) as caught:
        Rule.parse(rule, family)
    assert caught.value.reason in refused.stderr


@families
def test_an_object_that_is_not_there(namespace: Namespace, family: Family) -> None:
    """The kernel refuses the rule, as it does for iptables, and nothing has changed."""
    with namespace:
        with pytest.raises(CommitError) as caught, nfkeep.transaction("filter", family) as tx:
            tx.append("OUTPUT", "-m nfacct --nfacct-name absent")
        assert not caught.value.applied
        assert nfkeep.read("filter", family).chains["OUTPUT"].rules == ()


@families
@pytest.mark.parametrize("unit", ["packet", "byte"])
def test_a_quota_goes_on(namespace: Namespace, family: Family, unit: str) -> None:
    """A rule matches from the packet on that exceeds its object's quota, however often the table was replaced."""
    each = 38 if family is Family.IPV4 else 58
    namespace.run(f"nfacct add x {unit} {5 * (each if unit == 'byte' else 1)}")
    namespace.run(f"{iptables(family)} -A OUTPUT -p udp -m nfacct --nfacct-name x")
    matched = []
    with namespace:
        for packets in (3, 2, 1, 1):
            send(namespace, family, packets)
            with nfkeep.transaction("filter", family, on_loss="refuse") as tx:
                tx.append("INPUT", "-p tcp")
            assert tx.report == nfkeep.Report()
            matched.append(nfkeep.read("filter", family).chains["OUTPUT"].rules[0].counters.packets)
    assert matched == [0, 0, 1, 2]
    assert objects(namespace) == {"x": Counters(7, 7 * each)}


@families
@pytest.mark.parametrize("quota", ["", "packet 1", "packet 1000000"], ids=["no quota", "exceeded", "far away"])
def test_opening_packets_are_not_accounted(start_service: Start, family: Family, quota: str) -> None:
    """Whether its rule matches or not, an object counts all that asks it: these flows are left out, and it is named."""
    shape = Shape(f"{family} INPUT", family)
    service = start_service(shape, rules=[])
    service.gateway.run(f"nfacct add x {quota}")
    service.plain("-A INPUT -p tcp --dport 873 -m nfacct --nfacct-name x")
    service.plain(f"-A INPUT {shape.rule(873)}")
    old = service.dial()
    service.quiet()
    before = objects(service.gateway)
    (limit,) = service.append_unrelated().outcomes
    assert objects(service.gateway) == before
    assert limit.fidelity is Fidelity.LOST
    assert f"opening packets would meet nfacct at {family} filter INPUT rule 1" in limit.detail
    assert len(living(old)) == LIMIT


@families
@pytest.mark.parametrize("where", ["another host", "itself"])
def test_opening_packets_of_the_host_are_not_accounted(start_service: Start, family: Family, where: str) -> None:
    """So it is for connections that the host has opened, to others or to itself, with an object on the way out."""
    shape = Shape(f"{family}", family, chain="INPUT" if where == "itself" else "OUTPUT")
    service = start_service(shape)
    service.gateway.run("nfacct add x")
    service.plain("-t mangle -A OUTPUT -p tcp --dport 873 -m nfacct --nfacct-name x")
    network, far = service.network, service.network.server_address(family)
    with EchoServer(network.server, family, "tcp", far, 873):
        address = service.address if where == "itself" else far
        old = service.dialer(service.gateway, family, "tcp", address, 873, DIALS, timeout=0.5)
        assert len(old) == LIMIT
        service.quiet()
        before = objects(service.gateway)
        (limit,) = service.append_unrelated().outcomes
        assert objects(service.gateway) == before
        assert limit.fidelity is Fidelity.LOST
        assert f"opening packets would meet nfacct at {family} mangle OUTPUT rule 1" in limit.detail
        assert len(living(old)) == LIMIT
