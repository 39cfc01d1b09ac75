"""Quotas of rules that go on in nft when a running host is moved: exactly, or with what more may pass told."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import pytest
from flood import Flood
from mover import Mover

from nfkeep import Family
from nfkeep.migrate.live.beginning import Beginning
from nfkeep.migrate.live.host import read_host
from nfkeep.migrate.live.load import bring_in, wake
from nfkeep.migrate.live.plan import make_plan
from nfkeep.migrate.live.used_quotas import UsedQuotas

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600), pytest.mark.usefixtures("own_directories")]

WIDE = 10**12
QUOTA = re.compile(
    r"^quota +IPv4 filter INPUT rule 1 +(\w+) +([^:\n]*(?:: (\d+) bytes more may pass)?.*)$", re.MULTILINE
)
SIZE = 100
_AMOUNT = r"(\d+) ([kmg]?)bytes"
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}


def send(namespace: Namespace, packets: Mapping[int, int], family: Family = Family.IPV4) -> None:
    """So many packets of 100 bytes to each port."""
    payload = SIZE - {Family.IPV4: 28, Family.IPV6: 48}[family]
    with namespace, socket.socket(family.value, socket.SOCK_DGRAM) as sender:
        for port, number in packets.items():
            for _ in range(number):
                sender.sendto(bytes(payload), (LOOPBACK[family], port))


def quotas(namespace: Namespace) -> dict[str, tuple[int, int, int]]:
    """By name: bytes, how many are used, and what the rule has counted that asks it."""
    listed = namespace.run("nft list ruleset").stdout
    found = re.findall(rf"quota (\S+) \{{\s+{_AMOUNT}(?: used {_AMOUNT})?", listed)
    counted = dict(re.findall(r'quota name "(\S+)" counter packets \d+ bytes (\d+)', listed))
    return {
        name: (int(whole) * _UNITS[unit], int(used or 0) * _UNITS[used_unit], int(counted[name]))
        for name, whole, unit, used, used_unit in found
    }


@pytest.mark.parametrize("family", Family, ids=str)
def test_what_passes_while_nft_loads_its_rules(namespace: Namespace, family: Family) -> None:
    """It is used up when they come into force; the rules are the same ones then, and so are their counters."""
    tool = "iptables-legacy" if family is Family.IPV4 else "ip6tables-legacy"
    for rule in (
        "-p udp --dport 7001 -m quota --quota 1000001 -j ACCEPT",
        '-p udp -m multiport --dports 7002,7003 -m comment --comment "two ports" -m quota --quota 1000000 -j ACCEPT',
        "-p udp --dport 7004 -m quota --quota 1000 -j ACCEPT",
        "-p udp --dport 7005 -m quota --quota 1000 -j ACCEPT",
        "-p udp --dport 7006 -m quota --quota 1000000",
        "-j DROP",
    ):
        namespace.run(f"{tool} -A INPUT {rule}")
    send(namespace, {7001: 5, 7002: 6, 7003: 7, 7004: 8, 7005: 5}, family)
    with namespace:
        plan = make_plan(read_host())
        bring_in(plan, lambda: plan)
        used = UsedQuotas(plan)
        before = quotas(namespace)
        send(namespace, {7001: 50, 7003: 30, 7004: 1, 7005: 9}, family)
        beginning = Beginning([("filter", family)])
        wake(plan, beginning.look)
        used.go_on(beginning)
        outcomes = {each.where: each for each in used.outcomes(plan.outcomes) if each.kind == "quota"}
    assert [before[name][1] for name in sorted(before)] == [500, 1300, 800, 500, 0]
    after = quotas(namespace)
    expected = [(1000001, 5500), (1000000, 4300), (1000, 900), (1000, 1000), (1000000, 0)]
    assert [after[name] for name in sorted(after)] == [(whole, passed, passed) for whole, passed in expected]
    fidelities = [each.fidelity.value for each in outcomes.values()]
    assert fidelities == ["restored", "restored", "approximated", "approximated", "restored"]  # as those may have ended
    send(namespace, {7001: 1, 7004: 2, 7005: 3}, family)
    last = quotas(namespace)
    assert [last[name][2] for name in sorted(last)] == [5600, 4300, 1000, 1000, 0]
    listed = namespace.run("nft list ruleset").stdout
    assert re.search(r'dport \{ 7002, 7003 \} quota name .* counter packets 43 .* accept comment "two ports"', listed)


def test_quota_that_was_begun_anew(namespace: Namespace) -> None:
    """The counter has more than the quota of bytes: nft's begins full, and what passes meanwhile is used up all the
    same."""
    namespace.run("iptables-legacy -A INPUT -p udp --dport 7001 -c 20 2000 -m quota --quota 1000 -j ACCEPT")
    with namespace:
        plan = make_plan(read_host())
        bring_in(plan, lambda: plan)
        used = UsedQuotas(plan)
        send(namespace, {7001: 3})
        beginning = Beginning([("filter", Family.IPV4)])
        wake(plan, beginning.look)
        used.go_on(beginning)
        [outcome] = [each for each in used.outcomes(plan.outcomes) if each.kind == "quota"]
    assert quotas(namespace) == {"quota-INPUT": (1000, 300, 2300)}
    assert outcome.fidelity.value == "approximated"


@pytest.mark.parametrize("family", Family, ids=str)
def test_under_a_flood(namespace: Namespace, family: Family) -> None:
    """At full rate no more may pass than is told, and never less than was left."""
    tool = "iptables-legacy" if family is Family.IPV4 else "ip6tables-legacy"
    namespace.run(f"{tool} -A INPUT -p udp --dport 7002 -m quota --quota {WIDE} -j ACCEPT")
    flood = Flood(namespace, family)
    try:
        told = Mover(namespace)("apply").stdout
        sent = flood.stop()
    finally:
        flood.close()
    [(_, used, counted)] = quotas(namespace).values()
    [(fidelity, _, more)] = QUOTA.findall(told.replace(str(family), "IPv4"))
    assert 0 <= sent[7002].bytes - used <= int(more or 0)
    assert used <= counted
    assert fidelity == ("approximated" if more else "restored")


@pytest.mark.parametrize(
    "rule", ["-p udp -m quota ! --quota 1000 -j DROP", "-p udp -m quota --quota 1000 -m length --length 50 -j DROP"]
)
def test_quotas_that_nobody_can_read(namespace: Namespace, rule: str) -> None:
    """Their counter does not tell what is used up, so that they are not told to be exact."""
    namespace.run(f"iptables-legacy -A INPUT {rule}")
    told = Mover(namespace)("apply", "--accept-losses").stdout
    assert re.search("^quota +IPv4 filter INPUT rule 1 +approximated", told, re.MULTILINE)
