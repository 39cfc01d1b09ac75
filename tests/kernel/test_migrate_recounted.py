"""Connections that a move has counted again: what their opening packets pass on the way, and what is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from limited import Service, Shape
from mover import Mover

from nfkeep.keep.report import Fidelity
from nfkeep.migrate.live import cutover, record
from nfkeep.migrate.live.host import read_host
from nfkeep.migrate.live.plan import make_plan
from nfkeep.testing import close_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from nfkeep.keep.report import Outcome, Report

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300), pytest.mark.usefixtures("own_directories")]

SHAPES = [Shape("legacy"), Shape("iptables-nft", variant="nft")]
OPENING = "-A INPUT -p tcp --syn --dport 873"
LIMITED = f"{OPENING} -m connlimit --connlimit-above 5 -j REJECT --reject-with tcp-reset"
HITS = [
    f"{OPENING} -m recent --name r --update --seconds 600 --hitcount 8 -j DROP",
    f"{OPENING} -m recent --name r --set",
]
MINE = """table inet mine {
    chain in {
        type filter hook input priority -10;
        tcp dport 873 tcp flags & (syn | ack) == syn limit rate over 12/hour burst 12 packets drop
    }
}
"""


def moved(service: Service) -> Report:
    """Move the gateway."""
    with service.gateway, record.locked():
        plan = make_plan(read_host(), try_out=False)
        cutover.check(plan, accept_losses=True)
        return cutover.apply(plan, lambda _: None)


def told(report: Report, kind: str) -> dict[str, Outcome]:
    """What is told of this kind, by where it is."""
    return {each.where: each for each in report.outcomes if each.kind == kind}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_list_of_those_who_come(start_service: Callable[..., Service], shape: Shape) -> None:
    """Connections that cannot be counted without being taken for others are not; who has connected so often is known.

    On the way back as well.
    """
    service = start_service(shape, rules=[*HITS, LIMITED])
    old = service.dial(5)
    assert len(old) == 5
    outcome = told(moved(service), "connlimit")["IPv4 filter INPUT rule 3"]
    assert outcome.fidelity is Fidelity.LOST
    assert "5 flows left out: opening packets would meet recent at IPv4 filter INPUT rule 1" in outcome.detail
    close_all(old[:2])
    assert len(service.dial(2)) == 2
    Mover(service.gateway)("rollback")
    with service.gateway, open("/proc/thread-self/net/xt_recent/r") as entries:
        (entry,) = entries
    assert len(entry.partition("oldest_pkt: ")[2].split()) - 1 == 7, entry


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_quota(start_service: Callable[..., Service], shape: Shape) -> None:
    """Connections that would use up a quota in their being counted use up none of it."""
    service = start_service(shape, rules=[f"{OPENING} -m quota --quota 1000", LIMITED])
    assert len(service.dial(5)) == 5
    moved(service)
    assert "1000 bytes used 300 bytes" in service.gateway.run("nft list ruleset").stdout


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_table_of_nft(start_service: Callable[..., Service], shape: Shape) -> None:
    """What packets pass in a table that is not moved they pass once, which is told, and all are counted."""
    service = start_service(shape, rules=[LIMITED])
    service.gateway.run("nft -f -", input=MINE)
    assert len(service.dial(5)) == 5
    report = moved(service)
    assert told(report, "connlimit")["IPv4 filter INPUT rule 1"].fidelity is Fidelity.RESTORED
    assert told(report, "nftables").keys() == {"table inet mine"}
    service.gateway.run("nft flush chain inet mine in")
    assert len(service.dial(3)) == 0


def test_each_limit_for_itself(start_service: Callable[..., Service]) -> None:
    """What is missing in one family is not told of the other, nor of itself with numbers of rules that are our own."""
    service = start_service(Shape("IPv4"), rules=[HITS[1], LIMITED])
    service.gateway.run(f"ip6tables-legacy {LIMITED}")
    assert len(service.dial(3)) == 3
    report = told(moved(service), "connlimit")
    assert report["IPv6 filter INPUT rule 1"].fidelity is Fidelity.RESTORED
    assert report["IPv4 filter INPUT rule 2"].fidelity is Fidelity.LOST
    assert "would meet recent at IPv4 filter INPUT rule 1" in report["IPv4 filter INPUT rule 2"].detail
