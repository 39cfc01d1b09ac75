"""What becomes of every other state, and that the report tells it as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import nfkeep
from nfkeep import Family, Fidelity
from nfkeep.keep.hold import CHAIN, held
from nfkeep.xtables import hashlimit, recent

if TYPE_CHECKING:
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
