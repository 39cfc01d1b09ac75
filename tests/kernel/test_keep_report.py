"""What becomes of every other state, and that the report tells it as it is."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from limited import LIMIT, Service, Shape

import nfkeep
from nfkeep import Family, Fidelity
from nfkeep.keep import holding
from nfkeep.keep.hold import CHAIN, held
from nfkeep.xtables import hashlimit, recent

if TYPE_CHECKING:
    from collections.abc import Callable

    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

RECENT = "-p tcp --dport 22 -m recent --name ssh --rcheck --seconds 60 -j DROP"
HASHLIMIT = "-p udp -m hashlimit --hashlimit-above 5/sec --hashlimit-mode srcip --hashlimit-name dns -j DROP"


def change(namespace: Namespace, rule: str = "-s 192.0.2.1 -j DROP", **options: object) -> nfkeep.Report:
    with namespace, nfkeep.transaction("filter", **options) as tx:
        tx.append("INPUT", rule)
    return tx.report


def entries(namespace: Namespace) -> int | None:
    with namespace:
        return recent.entries("ssh")


def fill(namespace: Namespace) -> None:
    """Three addresses into the list `ssh`, one bucket into the table `dns`."""
    namespace.run(f"iptables-legacy -A INPUT {RECENT}")
    namespace.run(f"iptables-legacy -A INPUT {HASHLIMIT}")
    with namespace:
        for address in ("192.0.2.7", "192.0.2.8", "192.0.2.9"):
            with open("/proc/thread-self/net/xt_recent/ssh", "w") as control:
                control.write(f"+{address}\n")
    namespace.run(["bash", "-c", "echo x > /dev/udp/127.0.0.1/53"])


FATES = {
    "limit": ("-m limit --limit 1/min --limit-burst 7 -j ACCEPT", "limit", Fidelity.APPROXIMATED, "up to 7 packets"),
    "quota": ("-m quota --quota 5000 -j ACCEPT", "quota", Fidelity.RESTORED, "5000 of 5000 bytes are left"),
    "nth": ("-m statistic --mode nth --every 3 --packet 0 -j DROP", "statistic", Fidelity.APPROXIMATED,
            "round of 3 packets"),
    "recent": (RECENT, "recent", Fidelity.SURVIVES, "still named"),
    "hashlimit": (HASHLIMIT, "hashlimit", Fidelity.SURVIVES, "still named"),
    "rateest": ("-j RATEEST --rateest-name r --rateest-interval 250ms --rateest-ewma 1s", "RATEEST",
                Fidelity.SURVIVES, "still named"),
    "idletimer": ("-j IDLETIMER --timeout 60 --label nfk", "IDLETIMER", Fidelity.APPROXIMATED, "starts its time again"),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "kind", "fidelity", "words"), FATES.values(), ids=FATES)
def test_each_state_has_its_outcome(namespace: Namespace, rule: str, kind: str, fidelity: Fidelity, words: str) -> None:
    """A state that a rule keeps appears in the report with its true fidelity and the reason."""
    namespace.run(f"iptables-legacy -A INPUT {rule}")
    (outcome,) = change(namespace).outcomes
    assert (outcome.kind, outcome.fidelity) == (kind, fidelity)
    assert words in outcome.detail


def test_the_quota_used_is_told(namespace: Namespace) -> None:
    """What is left of a quota is written into the rule, and the report says it."""
    namespace.run("iptables-legacy -A INPUT -i lo -p udp -m quota --quota 100000 -j ACCEPT")
    namespace.run(["bash", "-c", "echo x > /dev/udp/127.0.0.1/53"])
    (outcome,) = change(namespace).outcomes
    assert outcome.fidelity is Fidelity.RESTORED
    assert "99970 of 100000 bytes are left" in outcome.detail


def test_random_statistic_and_stateless_rules_are_not_mentioned(namespace: Namespace) -> None:
    """Only what keeps state is in the report."""
    namespace.run("iptables-legacy -A INPUT -m statistic --mode random --probability 0.5 -j ACCEPT")
    namespace.run("iptables-legacy -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT")
    assert change(namespace) == nfkeep.Report()


def test_lists_outlive_the_rebuilding_of_their_rules(namespace: Namespace) -> None:
    """Taking a list's rule out and putting it back in one transaction keeps its addresses."""
    fill(namespace)
    with namespace, nfkeep.transaction() as tx:
        tx.flush("INPUT")
        tx.append("INPUT", RECENT)
        tx.append("INPUT", HASHLIMIT)
    assert {o.fidelity for o in tx.report.outcomes} == {Fidelity.SURVIVES}
    assert entries(namespace) == 3


@pytest.mark.parametrize("way", ["transaction", "command"])
def test_lists_are_held_between_two_changes(namespace: Namespace, way: str) -> None:
    """The last rule of a list goes in one change and comes back in another: the list is held, then the hold is gone."""
    fill(namespace)
    with namespace:
        if way == "transaction":
            with nfkeep.transaction() as tx:
                tx.flush("INPUT")
            report = tx.report
        else:
            from nfkeep.keep.command import run_iptables

            finished = run_iptables(Family.IPV4, ["-F", "INPUT"])
            assert finished.report is not None
            report = finished.report
        assert {(o.kind, o.fidelity) for o in report.outcomes} == {
            ("recent", Fidelity.HELD),
            ("hashlimit", Fidelity.HELD),
        }
        assert held(Family.IPV4) == {("recent", "ssh"), ("hashlimit", "dns")}
        assert entries(namespace) == 3
        assert hashlimit.buckets("dns", Family.IPV4) == 1
        with nfkeep.transaction() as tx:
            tx.append("INPUT", RECENT)
        assert held(Family.IPV4) == {("hashlimit", "dns")}
        with nfkeep.transaction() as tx:
            tx.append("INPUT", HASHLIMIT)
        assert held(Family.IPV4) == frozenset()
        assert CHAIN not in nfkeep.read("raw").chains
        assert entries(namespace) == 3


def test_lists_can_be_let_go(namespace: Namespace) -> None:
    """With hold=False a list dies with its last rule, and the report calls it lost."""
    fill(namespace)
    with namespace, nfkeep.transaction(hold=False) as tx:
        tx.flush("INPUT")
    assert {o.fidelity for o in tx.report.outcomes} == {Fidelity.LOST}
    assert entries(namespace) is None


def test_a_list_named_elsewhere_survives(namespace: Namespace) -> None:
    """No hold is placed for a list that another table names."""
    fill(namespace)
    namespace.run(f"iptables-legacy -t mangle -A INPUT {RECENT.replace('-j DROP', '')}")
    with namespace, nfkeep.transaction() as tx:
        tx.delete("INPUT", RECENT)
    assert [o.fidelity for o in tx.report.outcomes if o.kind == "recent"] == [Fidelity.SURVIVES]
    with namespace:
        assert held(Family.IPV4) == frozenset()


def test_a_larger_hitcount_is_reported_as_the_loss_it_is(namespace: Namespace) -> None:
    """The kernel empties a list for which a rule wants more stamps per address; the report says so beforehand."""
    fill(namespace)
    more = RECENT.replace("--seconds 60", "--seconds 60 --hitcount 50")
    report = change(namespace, more)
    (outcome,) = (o for o in report.outcomes if o.kind == "recent")
    assert outcome.fidelity is Fidelity.LOST
    assert entries(namespace) == 0


def test_the_json_form_says_the_same(namespace: Namespace) -> None:
    """Report.to_json holds every outcome and the gate's time."""
    import json

    namespace.run("iptables-legacy -A INPUT -m limit --limit 1/min")
    report = change(namespace)
    (outcome,) = report.outcomes
    assert json.loads(report.to_json()) == {
        "outcomes": [
            {"kind": "limit", "where": outcome.where, "fidelity": "approximated", "detail": outcome.detail},
        ],
        "gate_seconds": 0.0,
    }


@pytest.mark.parametrize(
    ("rule", "state"),
    [
        ("-j RATEEST --rateest-name r --rateest-interval 250ms --rateest-ewma 1s", ("rateest", "r")),
        ("-j IDLETIMER --timeout 600 --label nfk-held", ("idletimer", "nfk-held")),
    ],
    ids=["rateest", "idletimer"],
)
@pytest.mark.parametrize("family", Family, ids=str)
def test_targets_are_held_too(namespace: Namespace, family: Family, rule: str, state: tuple[str, str]) -> None:
    """An estimator or a timer whose last rule goes is kept by an inert rule with that target, until a rule names it."""
    with namespace:
        with nfkeep.transaction("filter", family) as tx:
            tx.append("INPUT", rule)
        with nfkeep.transaction("filter", family) as tx:
            tx.flush("INPUT")
        assert [(o.kind, o.fidelity) for o in tx.report.outcomes] == [(state[0], Fidelity.HELD)]
        assert held(family) == {state}
        with nfkeep.transaction("filter", family) as tx:
            tx.append("INPUT", rule)
        assert held(family) == frozenset()


BUCKETS = "-i lo -p udp --dport 9 -m hashlimit --hashlimit-name h --hashlimit-mode srcip --hashlimit-upto {} -j ACCEPT"
SLOW, FAST = BUCKETS.format("1/min --hashlimit-burst 2"), BUCKETS.format("1000/sec --hashlimit-burst 100")
NETWORKS = "-i lo -p udp --dport 9 -m recent --name seen --set --mask {}"
ESTIMATOR = "-j RATEEST --rateest-name e --rateest-interval {} --rateest-ewma {}"
#: A rule, the same with another configuration, and its state.
CONFIGURED = {
    "hashlimit": (SLOW, FAST, ("hashlimit", "h")),
    "recent": (NETWORKS.format("255.255.255.255"), NETWORKS.format("255.0.0.0"), ("recent", "seen")),
    "rateest": (ESTIMATOR.format("250ms", "0.5s"), ESTIMATOR.format("1s", "4s"), ("rateest", "e")),
}


def send(namespace: Namespace, count: int) -> None:
    """So many datagrams of 1000 bytes to port 9 of the host itself."""
    with namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(bytes(1000), ("127.0.0.1", 9))


def seen(namespace: Namespace) -> list[str]:
    """The addresses in the list `seen`."""
    with namespace, open("/proc/thread-self/net/xt_recent/seen") as lines:
        return [line.split()[0] for line in lines]


def accepted(namespace: Namespace, count: int, text: str = "-j ACCEPT") -> int:
    """How many of so many datagrams the first rule with that text takes."""

    def packets() -> int:
        lines = namespace.run("iptables-legacy-save -c").stdout.splitlines()
        return int(next(line for line in lines if text in line and line.startswith("["))[1:].partition(":")[0])

    before = packets()
    send(namespace, count)
    return packets() - before


def brought_back(namespace: Namespace, rule: str, way: str) -> nfkeep.Report:
    """The rule of a flushed chain comes back by a transaction, or by the real iptables."""
    with namespace:
        if way == "transaction":
            with nfkeep.transaction() as tx:
                tx.append("INPUT", rule)
            return tx.report
        from nfkeep.keep.command import run_iptables

        finished = run_iptables(Family.IPV4, ["-A", "INPUT", *rule.split()])
        assert (finished.status, finished.report is None) == (0, False)
        assert finished.report is not None
        return finished.report


def without_its_rule(namespace: Namespace, rule: str) -> None:
    """A list or a bucket with something in it, held as its rule has gone."""
    namespace.run(f"iptables-legacy -A INPUT {rule}")
    send(namespace, 10)
    with namespace, nfkeep.transaction() as tx:
        tx.flush("INPUT")
    assert [outcome.fidelity for outcome in tx.report.outcomes] == [Fidelity.HELD]


@pytest.mark.parametrize("way", ["transaction", "command"])
@pytest.mark.parametrize(("rule", "other", "state"), CONFIGURED.values(), ids=CONFIGURED)
def test_another_configuration_is_in_force(
    namespace: Namespace, rule: str, other: str, state: tuple[str, str], way: str
) -> None:
    """A rule that comes back with one gets what its operator wrote, and the report says that the state was lost."""
    without_its_rule(namespace, rule)
    report = brought_back(namespace, other, way)
    assert [(o.kind, o.where, o.fidelity) for o in report.outcomes] == [(state[0], f"IPv4 {state[1]}", Fidelity.LOST)]
    assert "another configuration" in report.outcomes[0].detail
    with namespace:
        assert held(Family.IPV4) == frozenset()
        assert str(nfkeep.read("filter").chains["INPUT"].rules[0]) == str(nfkeep.Rule.parse(other))
    if state[0] == "hashlimit":
        assert accepted(namespace, 50) == 50
    if state[0] == "recent":
        send(namespace, 1)
        assert seen(namespace) == ["src=127.0.0.0"]


@pytest.mark.parametrize("way", ["transaction", "command"])
@pytest.mark.parametrize(("rule", "state"), [(rule, state) for rule, _, state in CONFIGURED.values()], ids=CONFIGURED)
def test_the_same_configuration_goes_on(namespace: Namespace, rule: str, state: tuple[str, str], way: str) -> None:
    """A rule that comes back as it was finds its state, and nothing is lost."""
    without_its_rule(namespace, rule)
    assert brought_back(namespace, rule, way).lost == ()
    with namespace:
        assert held(Family.IPV4) == frozenset()
    if state[0] == "hashlimit":
        assert accepted(namespace, 50) == 0
    if state[0] == "recent":
        assert seen(namespace) == ["src=127.0.0.1"]


def test_a_rule_that_only_asks_the_other_way_finds_its_buckets(namespace: Namespace) -> None:
    """Whether a rule of hashlimit inverts is its own, not the table's: below and above share the buckets."""
    without_its_rule(namespace, SLOW)
    assert brought_back(namespace, SLOW.replace("-upto", "-above"), "transaction").lost == ()
    assert accepted(namespace, 50) == 50


def test_a_new_configuration_is_refused_with_what_would_be_lost(namespace: Namespace) -> None:
    """With on_loss="refuse" the rule stays away, and what is held stays."""
    without_its_rule(namespace, SLOW)
    with namespace:
        with (
            pytest.raises(nfkeep.StateLossError, match="another configuration"),
            nfkeep.transaction(on_loss="refuse") as tx,
        ):
            tx.append("INPUT", FAST)
        assert held(Family.IPV4) == {("hashlimit", "h")}


@pytest.mark.usefixtures("own_directories")
def test_other_state_outlives_a_new_configuration(namespace: Namespace) -> None:
    """What the table keeps besides, counters and quotas, comes through the replaces that it takes."""
    namespace.run("iptables-legacy -A INPUT -p udp --dport 9 -m quota --quota 100000")
    namespace.run(f"iptables-legacy -A INPUT {SLOW}")
    send(namespace, 10)
    with namespace, nfkeep.transaction() as tx:
        tx.delete("INPUT", position=2)
    report = brought_back(namespace, FAST, "command")
    outcomes = {outcome.kind: outcome for outcome in report.outcomes}
    assert outcomes["hashlimit"].fidelity is Fidelity.LOST
    assert outcomes["quota"].detail.startswith("89720 of 100000 bytes are left")
    assert "[10:10280] -A INPUT" in namespace.run("iptables-legacy-save -c").stdout
    assert accepted(namespace, 50) == 50


def test_a_rule_replaced_by_one_with_another_configuration(namespace: Namespace) -> None:
    """In one replace the kernel goes on with the buckets as they were made; the report says so."""
    namespace.run(f"iptables-legacy -A INPUT {SLOW}")
    with namespace, nfkeep.transaction() as tx:
        tx.replace("INPUT", 1, FAST)
    (outcome,) = tx.report.outcomes
    assert outcome.fidelity is Fidelity.SURVIVES
    assert "takes no other configuration" in outcome.detail


IN_RAW = "-t raw -A PREROUTING -i lo -p udp --dport 9 -m quota --quota 100000"


def keeps_in_raw(namespace: Namespace, used: int = 10) -> None:
    """A quota in raw, of which some is used, beside the hold of the list `ssh`, placed there before."""
    namespace.run(f"iptables-legacy -A INPUT {RECENT}")
    with namespace:
        holding.place([("recent", "ssh")])
        assert CHAIN in nfkeep.read("raw").chains
    namespace.run(f"iptables-legacy {IN_RAW}")
    send(namespace, used)


def left_in_raw(namespace: Namespace) -> int:
    """The figure of the quota in raw, as the kernel goes on with."""
    rules = namespace.run("iptables-legacy -t raw -S PREROUTING").stdout
    return int(rules.partition("--quota ")[2].split()[0])


@pytest.mark.usefixtures("own_directories")
def test_what_stands_beside_a_hold_outlives_its_release(namespace: Namespace) -> None:
    """To let a hold go replaces its table: the quota there goes on with what was left, and that is told."""
    keeps_in_raw(namespace)
    told: list[nfkeep.Outcome] = []
    with namespace:
        holding.release(tell=told.append)
        assert held(Family.IPV4) == frozenset()
    assert left_in_raw(namespace) == 89720
    assert [(o.kind, o.fidelity) for o in told] == [("quota", Fidelity.RESTORED)]


@pytest.mark.usefixtures("own_directories")
@pytest.mark.parametrize("way", ["transaction", "command"])
def test_what_stands_beside_a_hold_outlives_that_its_rule_is_back(namespace: Namespace, way: str) -> None:
    """The change that brings the name back takes the hold down, and tells of what that table keeps."""
    keeps_in_raw(namespace)
    namespace.run("iptables-legacy -F INPUT")
    report = brought_back(namespace, RECENT, way)
    assert [(o.kind, o.where, o.fidelity) for o in report.outcomes] == [
        ("quota", "IPv4 raw PREROUTING rule 1", Fidelity.RESTORED)
    ]
    assert left_in_raw(namespace) == 89720
    with namespace:
        assert held(Family.IPV4) == frozenset()


@pytest.mark.usefixtures("own_directories")
def test_a_hold_where_every_table_keeps_something(namespace: Namespace) -> None:
    """With no quiet table left it stands in raw, whose quota goes on, and that is told."""
    namespace.run(f"iptables-legacy {IN_RAW}")
    for table in ("mangle", "security"):
        namespace.run(f"iptables-legacy -t {table} -A INPUT -m limit --limit 1/min")
    namespace.run(f"iptables-legacy -A INPUT {RECENT}")
    send(namespace, 10)
    with namespace, nfkeep.transaction() as tx:
        tx.flush("INPUT")
    assert {o.kind: o.fidelity for o in tx.report.outcomes} == {
        "recent": Fidelity.HELD,
        "quota": Fidelity.RESTORED,
    }
    with namespace:
        assert held(Family.IPV4) == {("recent", "ssh")}
    assert left_in_raw(namespace) == 89720


@pytest.mark.usefixtures("own_directories")
def test_a_limit_beside_a_hold_outlives_its_release(start_service: Callable[..., Service]) -> None:
    """Nobody gets in over a limit in the table where a list was held when that is let go."""
    service = start_service(Shape("IPv4 TCP INPUT"), rules=[f"-A INPUT {RECENT}"])
    with service.gateway:
        holding.place([("recent", "ssh")])
    service.plain(f"-t raw -A PREROUTING -p tcp --syn --dport 873 -m connlimit --connlimit-above {LIMIT} -j DROP")
    assert len(service.dial()) == LIMIT
    told: list[nfkeep.Outcome] = []
    with service.gateway:
        holding.release(tell=told.append)
    assert [(o.kind, o.fidelity) for o in told] == [("connlimit", Fidelity.RESTORED)]
    assert service.dial() == []
