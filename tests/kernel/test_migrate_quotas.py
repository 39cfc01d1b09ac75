"""Quotas of rules that go on in nft when a running host is moved: exactly, or with what more may pass told."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import pytest
from flood import Flood
from limited import LIMIT, Service, Shape
from mover import Mover

from nfkeep import Family, transaction
from nfkeep.migrate.live import cutover
from nfkeep.migrate.live.beginning import Beginning
from nfkeep.migrate.live.host import read_host
from nfkeep.migrate.live.load import bring_in, wake
from nfkeep.migrate.live.plan import make_plan
from nfkeep.migrate.live.returned_quotas import ReturnedQuotas
from nfkeep.migrate.live.spent_quota import SpentQuota
from nfkeep.migrate.live.used_quotas import UsedQuotas
from nfkeep.testing import close_all, living

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
        "-p udp --dport 7006 -m quota --quota 1000000 -m comment --comment none",
        "-j DROP",
    ):
        namespace.run(f"{tool} -A INPUT {rule}")
    send(namespace, {7001: 5, 7002: 6, 7003: 7, 7004: 8, 7005: 5, 7006: 1}, family)
    with namespace:
        plan = make_plan(read_host())
        bring_in(plan, lambda: plan)
        used = UsedQuotas(plan)
        before = quotas(namespace)
        send(namespace, {7001: 50, 7003: 30, 7004: 1, 7005: 9, 7006: 2}, family)
        beginning = Beginning([("filter", family)])
        wake(plan, beginning.look)
        used.go_on(beginning)
        outcomes = {each.where: each for each in used.outcomes(plan.outcomes) if each.kind == "quota"}
    assert [before[name][1] for name in sorted(before)] == [500, 1300, 800, 500, 100]
    after = quotas(namespace)
    expected = [(1000001, 5500), (1000000, 4300), (1000, 900), (1000, 1000), (1000000, 300)]
    assert [after[name] for name in sorted(after)] == [(whole, passed, passed) for whole, passed in expected]
    fidelities = [each.fidelity.value for each in outcomes.values()]
    assert fidelities == ["restored", "restored", "approximated", "approximated", "restored"]  # as those may have ended
    send(namespace, {7001: 1, 7004: 2, 7005: 3}, family)
    last = quotas(namespace)
    assert [last[name][2] for name in sorted(last)] == [5600, 4300, 1000, 1000, 300]
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


def test_back_under_a_flood(namespace: Namespace) -> None:
    """What is left over comes off at the next change, and of the rest no more is missing than is told."""
    namespace.run(f"iptables-legacy -A INPUT -p udp --dport 7002 -m quota --quota {WIDE} -j ACCEPT")
    Mover(namespace)("apply")
    flood = Flood(namespace)
    try:
        told = Mover(namespace)("rollback").stdout
        sent = flood.stop()
    finally:
        flood.close()
    with namespace, transaction("filter") as tx:
        tx.append("INPUT", "-p tcp --dport 1 -j DROP")
    [(figure, _)] = left(namespace)
    more = re.findall(r"; (\d+) bytes more may pass", told)
    assert 0 <= sent[7002].bytes - (WIDE - figure) <= int(more[0] if more else 0)


def test_connections_are_counted_all_the_same(
    start_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the table is written once more, after it has come back into force and before connections are counted."""
    shape = Shape("TCP INPUT")
    rules = ["-A INPUT -p udp --dport 7001 -m quota --quota 10000 -j ACCEPT", f"-A INPUT {shape.rule(873)}"]
    service = start_service(shape, rules=rules)
    old = service.dial()
    Mover(service.gateway)("apply")
    Between(monkeypatch, service.gateway)(ReturnedQuotas, "spend", {7001: 10})
    with service.gateway:
        told = [each for each in cutover.rollback().outcomes if each.kind in ("connlimit", "quota")]
    assert [(each.kind, each.fidelity.value) for each in told] == [("quota", "restored"), ("connlimit", "restored")]
    assert left(service.gateway) == [(9000, 1000)]
    assert len(service.dial()) == 0
    assert len(living(old)) == LIMIT
    close_all(old)


@pytest.mark.parametrize(
    "rule", ["-p udp -m quota ! --quota 1000 -j DROP", "-p udp -m quota --quota 1000 -m length --length 50 -j DROP"]
)
def test_quotas_that_nobody_can_read(namespace: Namespace, rule: str) -> None:
    """Their counter does not tell what is used up, so that they are not told to be exact."""
    namespace.run(f"iptables-legacy -A INPUT {rule}")
    told = Mover(namespace)("apply", "--accept-losses").stdout
    assert re.search("^quota +IPv4 filter INPUT rule 1 +approximated", told, re.MULTILINE)


class Between:
    """Has packets sent in the middle of the way back: right after the given function, once for each entry."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, namespace: Namespace) -> None:
        self._monkeypatch, self._namespace = monkeypatch, namespace

    def __call__(self, owner: type, name: str, *packets: Mapping[int, int]) -> None:
        function: Callable[..., object] = getattr(owner, name)
        waiting = list(packets)

        def with_packets(*arguments: object) -> object:
            result = function(*arguments)
            if waiting:
                send(self._namespace, waiting.pop(0))
            return result

        self._monkeypatch.setattr(owner, name, with_packets)


def left(namespace: Namespace) -> list[tuple[int, int]]:
    """What stands in the last quota of each rule, and what the rule has counted, in bytes."""
    saved = namespace.run("iptables-legacy-save -c").stdout
    found = re.findall(r"^\[\d+:(\d+)\] -A INPUT .*--quota (\d+)", saved, re.MULTILINE)
    return [(int(figure), int(counted)) for counted, figure in found]


@pytest.fixture(params=[False, True], ids=["", "with a limit"])
def limited(request: pytest.FixtureRequest) -> bool:
    """Whether the table has a limit, too."""
    return bool(request.param)


@pytest.fixture
def moved(namespace: Namespace, *, limited: bool) -> Namespace:
    """A host whose quotas were half used before it was moved."""
    if limited:
        namespace.run("iptables-legacy -A FORWARD -m limit --limit 1/minute")
    for rule in (
        "-p udp --dport 7001 -m quota --quota 10000 -j ACCEPT",
        "-p udp --dport 7002 -m quota --quota 1000000 -j ACCEPT",
        "-p udp --dport 7003 -m quota --quota 1000 -m quota --quota 2000 -j ACCEPT",
        "-j DROP",
    ):
        namespace.run(f"iptables-legacy -A INPUT {rule}")
    send(namespace, {7001: 5, 7002: 6, 7003: 4})
    Mover(namespace)("apply", "--accept-losses")
    return namespace


def test_what_passes_on_the_way_back(moved: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes off at once, also what passes while that is written: what is left then passes, and not a packet more."""
    between = Between(monkeypatch, moved)
    between(ReturnedQuotas, "spend", {7001: 10, 7002: 20, 7003: 1})
    between(SpentQuota, "note", {}, {}, {}, {7001: 1}, {7002: 2}, {}, {7001: 3})
    with moved:
        report = cutover.rollback()
    told = {each.where: each for each in report.outcomes if each.kind == "quota"}
    assert {each.fidelity.value for each in told.values()} == {"restored"}
    assert left(moved) == [(8100, 1900), (997200, 2800), (1500, 500)]
    send(moved, {7001: 90, 7003: 6})
    assert left(moved) == [(8100, 10000), (997200, 2800), (1500, 1000)]
    with moved, transaction("filter") as tx:
        tx.append("INPUT", "-p tcp --dport 1 -j DROP")
    assert left(moved)[1] == (997200, 2800)


def test_what_does_not_end(moved: Namespace, monkeypatch: pytest.MonkeyPatch, *, limited: bool) -> None:
    """Where each time more packets pass, that ends too; what is left over is told, and comes off at the next change."""
    between = Between(monkeypatch, moved)
    between(ReturnedQuotas, "spend", {7002: 1})
    between(SpentQuota, "note", {}, {}, {}, *([{7002: 1}] * 100))
    with moved:
        report = cutover.rollback()
    [told] = [each for each in report.outcomes if each.kind == "quota" and each.where.endswith("rule 2")]
    assert told.fidelity.value == "approximated"
    limits = [each.detail.split(",")[0] for each in report.outcomes if each.where == "IPv4 filter, all rules"]
    assert limits == (["began full 5 times more within milliseconds"] if limited else [])
    assert told.detail.endswith("; 100 bytes that have passed during the change come off at the next one")
    [_, (figure, counted), _] = left(moved)
    assert figure + counted == 1000100
    with moved, transaction("filter") as tx:
        tx.append("INPUT", "-p tcp --dport 1 -j DROP")
    assert left(moved)[1] == (1000000 - counted, counted)
