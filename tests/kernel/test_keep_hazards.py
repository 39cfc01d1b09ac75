"""Opening packets leave no traces: what they would leave keeps flows from being counted, and the report says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from limited import DIALS, LIMIT, Service, Shape

from nfkeep import Family, Fidelity
from nfkeep.testing import living

if TYPE_CHECKING:
    from collections.abc import Callable

    from nfkeep import Outcome

    Start = Callable[..., Service]

pytestmark = pytest.mark.kernel

INPUT = Shape("INPUT")
SHAPES = [
    INPUT,
    Shape("IPv6", Family.IPV6),
    Shape("NAT", chain="FORWARD", nat=True, condition="-i cli0"),
    Shape("NAT IPv6", Family.IPV6, chain="FORWARD", nat=True),
]

#: What takes note of packets, by the name that the report gives it.
HAZARDS = {
    "LOG": "-j LOG",
    "NFLOG": "-j NFLOG --nflog-group 5",
    "recent": "-m recent --name seen --set",
    "hashlimit": "-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 1000 --hashlimit-mode srcip,srcport "
    "--hashlimit-name seen",
    "limit": "-m limit --limit 1/hour --limit-burst 1000",
    "quota": "-m quota --quota 100000",
    "RATEEST": "-j RATEEST --rateest-name seen --rateest-interval 250ms --rateest-ewma 1s",
    "statistic": "-m statistic --mode nth --every 3 --packet 0",
    "SET": "-j SET --add-set seen src,src",
}
#: Where it stands, as rules around it.
PLACES = {
    "before it": ("-A INPUT -p tcp --dport 873 {}",),
    "over two jumps": (
        "-N one",
        "-N two",
        "-A INPUT -p tcp -j one",
        "-A one --src 10.9.0.0/16 -j two",
        "-A two -p tcp --dport 873 {}",
    ),
    "in mangle": ("-t mangle -A PREROUTING -p tcp --dport 873 {}",),
    "in raw": ("-t raw -A PREROUTING -p tcp --dport 873 {}",),
}
HARMLESS = {
    "another port": ("-A INPUT -p tcp --dport 874 {}",),
    "another client": ("-t raw -A PREROUTING -s 10.9.0.200 -p tcp --dport 873 {}",),
    "behind the sink": ("-t security -A INPUT -p tcp --dport 873 {}",),
    "in a chain that nothing jumps to": ("-N loose", "-A loose -p tcp --dport 873 {}"),
}


def start_with(start_service: Start, around: tuple[str, ...], hazard: str, clients: int = 1) -> Service:
    """A service with the rules before the limit, and what `HAZARDS` needs."""
    service = start_service(INPUT, rules=[], clients=clients)
    if "SET" in hazard:
        service.gateway.run("ipset create seen hash:ip,port")
    for rule in (*around, f"-A INPUT {INPUT.rule(873)}"):
        service.plain(rule.format(hazard))
    return service


def counted(service: Service) -> list[str]:
    """All rules with their counters, of all tables; without the figures of quotas."""
    saved = service.gateway.run(f"{service.shape.iptables}-save -c").stdout.splitlines()
    return [
        line.partition(" --quota ")[0]
        for line in saved
        if "] -A" in line and service.shape.unrelated.split()[1] not in line
    ]


def emptied(service: Service) -> None:
    """What can be emptied is, so that any trace shows; the flows' own traces would look like those of our packets."""
    with service.gateway:
        try:
            with open("/proc/thread-self/net/xt_recent/seen", "w") as control:
                control.write("/\n")
        except FileNotFoundError:
            pass
    service.gateway.run("ipset flush seen", check=False)


def traces(service: Service) -> tuple[str, ...]:
    """Entries of lists and sets, and for how many packets the buckets' credit is (it grows by itself)."""
    found = []
    with service.gateway:
        for place in ("xt_recent/seen", "ipt_hashlimit/seen"):
            try:
                with open(f"/proc/thread-self/net/{place}") as state:
                    lines = state.read().splitlines()
            except FileNotFoundError:
                continue
            if place.startswith("ipt"):
                lines = [f"{where} {round(int(left) / int(cost))}" for _, where, left, _, cost in map(str.split, lines)]
            found += sorted(lines)
    found.append(service.gateway.run("ipset save", check=False).stdout)
    return tuple(found)


def changed(service: Service) -> tuple[Outcome, ...]:
    """A change that has nothing to do with them; all traces and counters have to be what they were."""
    emptied(service)
    before, rules = traces(service), counted(service)
    report = service.append_unrelated()
    assert traces(service) == before
    assert counted(service) == rules
    return report.outcomes


def of_limit(outcomes: tuple[Outcome, ...]) -> Outcome:
    (limit,) = [outcome for outcome in outcomes if outcome.kind == "connlimit"]
    return limit


@pytest.mark.parametrize(
    ("hazard", "place"),
    # In the table that changes, the round of nth begins again anyway.
    [(hazard, place) for hazard in HAZARDS for place in PLACES if hazard != "statistic" or "-t" in PLACES[place][-1]],
)
def test_what_stands_in_the_way_sees_no_packet(start_service: Start, hazard: str, place: str) -> None:
    """The count is lost, the outcome names what was in the way, and no state and no counter tells of us."""
    service = start_with(start_service, PLACES[place], HAZARDS[hazard])
    old = service.dial()
    assert len(old) == LIMIT
    limit = of_limit(changed(service))
    assert limit.fidelity is Fidelity.LOST
    assert f"10 flows left out: opening packets would meet {hazard} at IPv4" in limit.detail
    assert len(living(old)) == LIMIT
    assert service.server.resets == 0


@pytest.mark.parametrize("place", HARMLESS)
@pytest.mark.parametrize("hazard", HAZARDS)
def test_what_does_not_stand_in_the_way_costs_nothing(start_service: Start, hazard: str, place: str) -> None:
    """The count is restored, exactly, and no state and no counter tells of us."""
    service = start_with(start_service, HARMLESS[place], HAZARDS[hazard])
    old = service.dial()
    outcomes = changed(service)
    assert of_limit(outcomes).fidelity is Fidelity.RESTORED
    assert {outcome.kind for outcome in outcomes} <= {"connlimit", hazard}  # its own state may have one
    assert service.dial() == []
    assert len(living(old)) == LIMIT


@pytest.mark.parametrize("hazard", ["LOG", "recent", "SET"])
def test_only_flows_that_would_meet_it_are_left_out(start_service: Start, hazard: str) -> None:
    """It notes one client only: the other one's connections are counted."""
    service = start_with(start_service, ("-A INPUT -s 10.9.0.2 -p tcp --dport 873 {}",), HAZARDS[hazard], clients=2)
    first, second = service.network.client_addresses(Family.IPV4)

    def dial_from(source: object) -> list[object]:
        client = service.network.client
        return service.dialer(client, Family.IPV4, "tcp", service.address, 873, DIALS, source=source, timeout=0.5)

    old = [*dial_from(first), *dial_from(second)]
    assert len(old) == 2 * LIMIT
    limit = of_limit(changed(service))
    assert limit.fidelity is Fidelity.APPROXIMATED
    assert limit.detail.startswith("10 live flows counted again; 10 flows left out")
    assert hazard in limit.detail
    assert dial_from(second) == []
    assert len(living(old)) == 2 * LIMIT


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_counters_are_exact_in_nested_chains(start_service: Start, shape: Shape) -> None:
    """Whatever the opening packets meet on their way, in three tables and over jumps and returns."""
    port = 8730 if shape.nat else 873
    rules = [
        "-t raw -A PREROUTING -p tcp",
        "-t mangle -N inner",
        "-t mangle -A PREROUTING -p tcp --syn -j inner",
        "-t mangle -A inner -p tcp -j MARK --set-mark 7",
        "-N one",
        "-N two",
        f"-A {shape.chain} -p tcp --dport {port} -j one",
        "-A one -p tcp -j two",
        "-A two -p tcp --syn -j RETURN",
        "-A one -m mark --mark 7",
        f"-A {shape.chain} {shape.rule(port)}",
        f"-A {shape.chain} -p tcp --syn --dport {port} -j ACCEPT",
    ]
    service = start_service(shape, rules=rules)
    old = service.dial()
    assert len(old) == LIMIT
    for _ in range(3):
        before = counted(service)
        outcomes = service.append_unrelated().outcomes
        assert counted(service) == before
        assert [(each.kind, each.fidelity) for each in outcomes] == [("connlimit", Fidelity.RESTORED)]
    assert service.dial() == []
    assert len(living(old)) == LIMIT


@pytest.mark.parametrize("answer", ["tcp-reset", "icmp-port-unreachable"])
def test_no_answer_leaves_the_host(start_service: Start, answer: str) -> None:
    """A lowered limit refuses most opening packets: the client hears nothing of it."""
    service = start_service(INPUT)
    old = service.dial()
    client = service.network.client
    client.run("iptables-legacy -A INPUT -p tcp --tcp-flags RST RST")
    client.run("iptables-legacy -A INPUT -p icmp")
    rule = INPUT.rule(873).replace("above 10", "above 4").replace("tcp-reset", answer)
    service.keep(lambda tx: tx.replace("INPUT", 1, rule))
    heard = client.run("iptables-legacy-save -c").stdout.splitlines()
    assert [line.split()[0] for line in heard if "] -A" in line] == ["[0:0]", "[0:0]"]
    assert service.dial() == []
    assert len(living(old)) == LIMIT
