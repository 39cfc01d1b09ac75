"""Opening packets leave no traces: what they would leave keeps flows from being counted, and the report says so."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from limited import DIALS, LIMIT, Service, Shape

import nfkeep
from nfkeep import Family, Fidelity
from nfkeep.keep.overview import overview
from nfkeep.testing import living

if TYPE_CHECKING:
    from collections.abc import Callable

    from nfkeep import Outcome

    Start = Callable[..., Service]

pytestmark = pytest.mark.kernel

INPUT = {family: Shape(f"{family} INPUT", family) for family in Family}
SHAPES = [
    *INPUT.values(),
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
    "nfacct": "-m nfacct --nfacct-name seen",
}
#: Where it stands, as rules around it; `clients` and `nobody` are addresses of the family.
PLACES = {
    "before it": ("-A INPUT -p tcp --dport 873 {hazard}",),
    "over two jumps": (
        "-N one",
        "-N two",
        "-A INPUT -p tcp -j one",
        "-A one --src {clients} -j two",
        "-A two -p tcp --dport 873 {hazard}",
    ),
    "in mangle": ("-t mangle -A PREROUTING -p tcp --dport 873 {hazard}",),
    "in raw": ("-t raw -A PREROUTING -p tcp --dport 873 {hazard}",),
}
HARMLESS = {
    "another port": ("-A INPUT -p tcp --dport 874 {hazard}",),
    "another client": ("-t raw -A PREROUTING -s {nobody} -p tcp --dport 873 {hazard}",),
    "not about opening packets": ("-A INPUT -p tcp ! --syn --dport 873 {hazard}",),
    "behind the sink": ("-t security -A INPUT -p tcp --dport 873 {hazard}",),
    "in a chain that nothing jumps to": ("-N loose", "-A loose -p tcp --dport 873 {hazard}"),
}
ADDRESSES = {
    Family.IPV4: {"clients": "10.9.0.0/16", "first": "10.9.0.2", "nobody": "10.9.0.200"},
    Family.IPV6: {"clients": "fd09::/64", "first": "fd09::2", "nobody": "fd09::200"},
}

families = pytest.mark.parametrize("family", list(Family), ids=str)


def start_with(start_service: Start, family: Family, around: tuple[str, ...], hazard: str, clients: int = 1) -> Service:
    """A service with the rules before the limit, and what `HAZARDS` needs."""
    service = start_service(INPUT[family], rules=[], clients=clients)
    if "SET" in hazard:
        service.gateway.run(f"ipset create seen hash:ip,port family {'inet6' if family is Family.IPV6 else 'inet'}")
    if "nfacct" in hazard:
        service.gateway.run("nfacct add seen")
    for rule in (*around, f"-A INPUT {INPUT[family].rule(873)}"):
        service.plain(rule.format(hazard=hazard, **ADDRESSES[family]))
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
    """Entries of lists and sets, how many packets' credit is missing in each bucket (by itself it takes an hour to grow
    by one), and the counters of accounting objects."""
    found = []
    with service.gateway:
        for place in ("xt_recent/seen", "ipt_hashlimit/seen", "ip6t_hashlimit/seen"):
            try:
                with open(f"/proc/thread-self/net/{place}") as state:
                    lines = state.read().splitlines()
            except FileNotFoundError:
                continue
            if "hashlimit" in place:
                fields = [line.split() for line in lines]
                lines = [
                    f"{where} {round((int(most) - int(left)) / int(cost))}" for _, where, left, most, cost in fields
                ]
            found += sorted(lines)
    found += [service.gateway.run(each, check=False).stdout for each in ("ipset save", "nfacct list")]
    return tuple(found)


def changed(service: Service) -> tuple[Outcome, ...]:
    """A change that has nothing to do with them; all traces and counters have to be what they were."""
    service.quiet()
    emptied(service)
    before, rules = traces(service), counted(service)
    report = service.append_unrelated()
    assert traces(service) == before
    assert counted(service) == rules
    return report.outcomes


def of_limit(outcomes: tuple[Outcome, ...]) -> Outcome:
    (limit,) = [outcome for outcome in outcomes if outcome.kind == "connlimit"]
    return limit


@families
@pytest.mark.parametrize(
    ("hazard", "place"),
    # In the table that changes, the round of nth begins again anyway.
    [(hazard, place) for hazard in HAZARDS for place in PLACES if hazard != "statistic" or "-t" in PLACES[place][-1]],
)
def test_what_stands_in_the_way_sees_no_packet(start_service: Start, family: Family, hazard: str, place: str) -> None:
    """The count is lost, the outcome names what was in the way, and no state and no counter tells of us."""
    service = start_with(start_service, family, PLACES[place], HAZARDS[hazard])
    old = service.dial()
    assert len(old) == LIMIT
    limit = of_limit(changed(service))
    assert limit.fidelity is Fidelity.LOST
    assert f"10 flows left out: opening packets would meet {hazard} at {family}" in limit.detail
    assert len(living(old)) == LIMIT
    assert service.server.resets == 0


@families
@pytest.mark.parametrize("place", HARMLESS)
@pytest.mark.parametrize("hazard", HAZARDS)
def test_what_does_not_stand_in_the_way_costs_nothing(
    start_service: Start, family: Family, hazard: str, place: str
) -> None:
    """The count is restored, exactly, and no state and no counter tells of us."""
    service = start_with(start_service, family, HARMLESS[place], HAZARDS[hazard])
    old = service.dial()
    outcomes = changed(service)
    assert of_limit(outcomes).fidelity is Fidelity.RESTORED
    assert {outcome.kind for outcome in outcomes} <= {"connlimit", hazard}  # its own state may have one
    assert service.dial() == []
    assert len(living(old)) == LIMIT


@families
@pytest.mark.parametrize("hazard", ["LOG", "recent", "SET", "nfacct"])
def test_only_flows_that_would_meet_it_are_left_out(start_service: Start, family: Family, hazard: str) -> None:
    """It notes one client only: the other one's connections are counted."""
    around = ("-A INPUT -s {first} -p tcp --dport 873 {hazard}",)
    service = start_with(start_service, family, around, HAZARDS[hazard], clients=2)
    first, second = service.network.client_addresses(family)

    def dial_from(source: object) -> list[object]:
        client = service.network.client
        return service.dialer(client, family, "tcp", service.address, 873, DIALS, source=source, timeout=0.5)

    old = [*dial_from(first), *dial_from(second)]
    assert len(old) == 2 * LIMIT
    limit = of_limit(changed(service))
    assert limit.fidelity is Fidelity.APPROXIMATED
    assert limit.detail.startswith("10 live flows counted again; 10 flows left out")
    assert hazard in limit.detail
    assert dial_from(second) == []
    assert len(living(old)) == 2 * LIMIT


@families
@pytest.mark.parametrize("hazard", ["LOG", "recent", "limit"])
def test_a_limit_in_front_that_takes_note_is_not_exceeded(start_service: Start, family: Family, hazard: str) -> None:
    """First what is over the limit is noted, then it is refused: the flows are within it, so nothing will be noted."""
    over = f"-A INPUT -p tcp --syn --dport 873 -m connlimit --connlimit-above {LIMIT} {{hazard}}"
    service = start_with(start_service, family, (over,), HAZARDS[hazard], clients=2)
    old = service.dial()
    assert len(old) == LIMIT
    outcomes = changed(service)
    assert [outcome.fidelity for outcome in outcomes if outcome.kind == "connlimit"] == [Fidelity.RESTORED] * 2
    assert service.dial() == []
    assert len(living(old)) == LIMIT


def test_a_limit_that_is_exceeded_takes_note_of_nothing(start_service: Start) -> None:
    """Where more flows live than a limit in front now allows, they are left out."""
    around = (f"-A INPUT -p tcp --syn --dport 873 -m connlimit --connlimit-above {LIMIT - 1} {{hazard}}",)
    service = start_with(start_service, Family.IPV4, around, HAZARDS["LOG"])
    old = service.dial()
    assert len(old) == LIMIT
    limits = [outcome for outcome in changed(service) if outcome.kind == "connlimit"]
    assert [limit.fidelity for limit in limits] == [Fidelity.LOST] * 2
    assert all("10 flows left out: opening packets might meet LOG" in limit.detail for limit in limits)


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
    service.quiet()
    for _ in range(3):
        before = counted(service)
        outcomes = service.append_unrelated().outcomes
        assert counted(service) == before
        assert [(each.kind, each.fidelity) for each in outcomes] == [("connlimit", Fidelity.RESTORED)]
    assert service.dial() == []
    assert len(living(old)) == LIMIT


REFUSALS = {
    Family.IPV4: ("icmp", "icmp-port-unreachable", "icmp-admin-prohibited"),
    Family.IPV6: ("icmpv6 --icmpv6-type destination-unreachable", "icmp6-port-unreachable", "icmp6-adm-prohibited"),
}


@pytest.mark.parametrize(
    ("family", "answer"),
    [(family, answer) for family, (_, *answers) in REFUSALS.items() for answer in ("tcp-reset", *answers)],
    ids=str,
)
def test_no_answer_leaves_the_host(start_service: Start, family: Family, answer: str) -> None:
    """A lowered limit refuses most opening packets: the client hears nothing of it, nor do rules on the way out."""
    service = start_service(INPUT[family])
    old = service.dial()
    client = service.network.client
    watched = ("-p tcp --tcp-flags RST RST", f"-p {REFUSALS[family][0]}")
    for each in watched:
        client.run(f"{service.shape.iptables} -A INPUT {each}")
        service.plain(f"-t raw -A OUTPUT {each}")
    rule = INPUT[family].rule(873).replace("above 10", "above 4").replace("tcp-reset", answer)
    service.keep(lambda tx: tx.replace("INPUT", 1, rule))
    for where, table in ((client, "filter"), (service.gateway, "raw")):
        heard = where.run(f"{service.shape.iptables}-save -c -t {table}").stdout.splitlines()
        assert [line.split()[0] for line in heard if "] -A" in line] == ["[0:0]", "[0:0]"]
    assert service.dial() == []
    assert len(living(old)) == LIMIT


REFUSED_AS_WELL = {
    "a log of what is refused behind it": ("-A INPUT {syn} {above} 10 -j LOG", "restored"),
    "one that is itself limited": ("-A INPUT {syn} {above} 10 -m limit --limit 5/min -j LOG", "restored"),
    "a log of more than is refused": ("-A INPUT {syn} {above} 12 -j LOG", "restored"),
    "a log of less, which some of the flows were in": ("-A INPUT {syn} {above} 5 -j LOG", "lost"),
    "a log of what is within the limit": ("-A INPUT {syn} {upto} 10 -j LOG", "lost"),
    "a log by network, with flows of many": ("-A INPUT {syn} {above} 10 --connlimit-mask 24 -j LOG", "lost"),
    "a bucket that every packet drains": ("-A INPUT {syn} -m limit --limit 5/min {above} 10 -j LOG", "lost"),
    "a log for other ports": ("-A INPUT -p tcp --syn --dport 872:873 {above} 10 -j LOG", "lost"),
    "a log in another table, whose list is full": ("-t mangle -A INPUT {syn} {above} 10 -j LOG", "lost"),
}


@pytest.mark.parametrize(("over", "fate"), REFUSED_AS_WELL.values(), ids=REFUSED_AS_WELL)
def test_what_is_said_of_a_limit_that_takes_note(start_service: Start, over: str, fate: str) -> None:
    """Only what an opening packet within the limit can meet is feared, by `show` and by on_loss="refuse"."""
    words = {"syn": "-p tcp --syn --dport 873", "above": "-m connlimit --connlimit-above",
             "upto": "-m connlimit --connlimit-upto"}  # fmt: skip
    service = start_service(INPUT[Family.IPV4], rules=[])
    service.plain(over.format(**words))
    service.plain(f"-A INPUT {INPUT[Family.IPV4].rule(873)}")
    assert len(service.dial()) == LIMIT
    with service.gateway:
        told = [state.on_change.value for state in overview() if state.kind == "connlimit" and "filter" in state.where]
        assert set(told) == {fate}
        with contextlib.nullcontext() if fate == "restored" else pytest.raises(nfkeep.StateLossError):
            with nfkeep.transaction(on_loss="refuse") as tx:
                tx.append("INPUT", INPUT[Family.IPV4].unrelated)
            assert {each.fidelity for each in tx.report.outcomes if each.kind == "connlimit"} == {Fidelity.RESTORED}
    assert service.dial() == []
