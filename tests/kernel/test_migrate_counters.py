"""Counters of rules that go on in nft when a running host is moved: exactly, or with what may be missing told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from flood import Flood, total
from limited import LIMIT, Service, Shape
from mover import Mover

from nfkeep import Family, read
from nfkeep.testing import close_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600), pytest.mark.usefixtures("own_directories")]


TOLD = re.compile(
    r"^counters +IPv\d, all rules and policies +(\w+) +[^:\n]*(?:: (\d+) each at the most)?$", re.MULTILINE
)
SHAPE = Shape("TCP INPUT")


UNDECIDED = "-m connbytes ! --connbytes 100000 --connbytes-dir both --connbytes-mode bytes"
"""What nobody can tell of opening packets, so that they are in the counters behind it, which the report says."""


@pytest.mark.parametrize(("match", "fidelity"), [("", "restored"), (UNDECIDED, "approximated")], ids=["", "undecided"])
def test_counters_go_on(start_service: Callable[..., Service], match: str, fidelity: str) -> None:
    """Also where opening packets have passed on behalf of connections; with values looked up, and with choices."""
    rules = [
        "-A INPUT -p tcp --dport 873",
        "-A INPUT -p tcp -m multiport --dports 22,873,8080",
        f"-A INPUT -p tcp {match}",
        f"-A INPUT {SHAPE.rule(873)}",
    ]
    service = start_service(SHAPE, rules=rules)
    old = service.dial()
    service.quiet()
    told = Mover(service.gateway)("apply", "--accept-losses").stdout
    assert [told for told, _ in TOLD.findall(told)] == [fidelity]
    saved = service.gateway.run("iptables-legacy-save -c").stdout
    before = [re.match(r"\[(\d+):(\d+)\] -A INPUT", line) for line in saved.splitlines()]
    counted = [match.groups() for match in before if match is not None][1:5]  # between ours
    after = re.findall(
        r"counter packets (\d+) bytes (\d+)", service.gateway.run("nft list chain ip filter INPUT").stdout
    )
    assert counted == after[:4]
    assert int(counted[0][0]) > 2 * LIMIT
    close_all(old)


_FLOODED = [
    "-A INPUT -p udp --dport 7001 -j ACCEPT",
    "-A INPUT -p udp -m multiport --dports 7002,7003",
    "-A INPUT -p udp --dport 7002 -j DROP",
    "-A INPUT -p udp --dport 7003",
]


@pytest.mark.parametrize("family", Family, ids=str)
def test_counters_under_traffic(start_service: Callable[..., Service], family: Family) -> None:
    """At full rate, while connections are counted again: no packet counts twice, and no more are missing than is told.

    Also of what is dropped, which iptables does not see any more once nft has its rules.
    """
    shape = Shape("TCP INPUT", family)
    neighbours = "ipv6-icmp" if family is Family.IPV6 else "icmp"
    service = start_service(shape, rules=[f"-A INPUT ! -p {neighbours}", f"-A INPUT {shape.rule(873)}", *_FLOODED])
    old = service.dial()
    service.quiet()
    with service.gateway:  # opening packets pass it, too
        before = read("filter", family).chains["INPUT"].rules[0].counters
    flood = Flood(service.gateway, family)
    try:
        told = Mover(service.gateway)("apply", "--accept-losses").stdout
        sent = flood.stop()
    finally:
        flood.close()
    chains = service.gateway.run(f"nft list table {'ip' if family is Family.IPV4 else 'ip6'} filter").stdout
    found = re.findall(r"!= .*icmp.* counter packets (\d+) bytes (\d+)", chains)
    found += re.findall(r"udp dport .*counter packets (\d+) bytes (\d+)", chains)
    wanted = [total(before, *sent.values()), sent[7001], total(sent[7002], sent[7003]), sent[7002], sent[7003]]
    missing = [want.packets - int(packets) for want, (packets, _) in zip(wanted, found, strict=True)]
    [(_, most)] = TOLD.findall(told)
    assert 0 <= min(missing) <= max(missing) <= int(most or 0)
    assert min(want.bytes - int(size) for want, (_, size) in zip(wanted, found, strict=True)) >= 0
    close_all(old)


def test_while_somebody_who_is_banned_knocks(start_service: Callable[..., Service]) -> None:
    """Whether the opening packets' sources are banned nobody can tell; that they were not, is seen by their arrival."""
    rules = [
        "-A INPUT -m recent --rcheck --name bad -j DROP",
        "-A INPUT -p tcp --dport 873",
        f"-A INPUT {SHAPE.rule(873)}",
    ]
    service = start_service(SHAPE, rules=rules)
    with service.gateway, open("/proc/thread-self/net/xt_recent/bad", "w") as bad:
        bad.write("+127.0.0.1\n")
    old = service.dial()
    service.quiet()
    mover, flood = Mover(service.gateway), Flood(service.gateway)
    try:
        listed = []
        for command in ("apply", "rollback", "apply"):
            saved = service.gateway.run("iptables-legacy-save -c").stdout
            told = mover(command).stdout
            listed.append(re.findall(r"^\[(\d+):(\d+)\] -A INPUT -p tcp -m tcp --dport 873$", saved, re.MULTILINE))
            assert "opening packets" not in told
        chain = service.gateway.run("nft list chain ip filter INPUT").stdout
        listed.append(re.findall(r"tcp dport 873 counter packets (\d+) bytes (\d+)$", chain, re.MULTILINE))
        assert flood.stop()[7001].packets > 0
    finally:
        flood.close()
    [first] = listed[0]
    assert int(first[0]) > LIMIT
    assert [each for each in listed if each] == [[first]] * sum(map(bool, listed))
    assert listed[-1] == [first]
    close_all(old)


def test_there_and_back_under_traffic(namespace: Namespace) -> None:
    """Again and again: what is missing in the end is no more than was told each time, and nothing counts twice."""
    for rule in _FLOODED:
        namespace.run(f"iptables-legacy {rule}")
    mover, told = Mover(namespace), ""
    flood = Flood(namespace)
    try:
        for command in ("apply", "rollback") * 3:
            told += mover(command).stdout
        sent = flood.stop()
    finally:
        flood.close()
    saved = namespace.run("iptables-legacy-save -c").stdout
    found = [int(each) for each in re.findall(r"^\[(\d+):\d+\] -A INPUT -p udp", saved, re.MULTILINE)]
    wanted = [sent[7001], total(sent[7002], sent[7003]), sent[7002], sent[7003]]
    missing = [want.packets - packets for want, packets in zip(wanted, found, strict=True)]
    most = sum(map(int, re.findall(r"(?::|of each,) (\d+) (?:each|packets)", told)))
    assert 0 <= min(missing) <= max(missing) <= most
