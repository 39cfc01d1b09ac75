"""Rules that answer opening packets by resets, which sets the live entry to CLOSE: it is found out, and set right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nfkeep.conntrack import Condition, Conntrack, Injector, Selector, prime
from nfkeep.keep.guard import RESETS, arrived, guard_ruleset
from nfkeep.model import Family, Hook
from nfkeep.nft.owned_table import OwnedTable
from nfkeep.testing import Namespace, pair

pytestmark = pytest.mark.kernel

FLOWS = 40
SELECTOR = Selector(Hook.INPUT, (Condition(protocol=6, destination_ports=((873, 873),)),))
NONCES = {Hook.INPUT: 7, Hook.FORWARD: 8}
HOOKS = dict.fromkeys(NONCES, 0)


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host with eth0 10.7.0.1/16 and 40 established connections from 10.7.1.1."""
    namespace, peer = Namespace(), Namespace()
    try:
        pair(namespace, "eth0", peer, "eth0")
        namespace.run("ip address add 10.7.0.1/16 dev eth0")
        for port in range(20000, 20000 + FLOWS):
            ends = f"-s 10.7.1.1 -d 10.7.0.1 --sport {port} --dport 873"
            namespace.run(f"conntrack -I -p tcp {ends} --state ESTABLISHED -t 3600 -u SEEN_REPLY,ASSURED")
        yield namespace
    finally:
        namespace.close()
        peer.close()


def closed_and_established(host: Namespace, counter: str) -> tuple[int, int]:
    """Entries of both states after all had their turn while the rules reset what comes from the last ports."""
    host.run("iptables-legacy -A INPUT -p tcp --syn --sport 20030:20039 -j REJECT --reject-with tcp-reset")
    ruleset = guard_ruleset(Family.IPV4, (SELECTOR,), HOOKS, NONCES, open_again_seconds=30)
    with host, OwnedTable(ruleset) as guard, Conntrack() as conntrack, Injector() as injector:
        flows = conntrack.select(Family.IPV4, [SELECTOR])
        question = guard.question(counter) if counter else b""
        primed = prime(conntrack, flows, injector, recreate=True, nonces=NONCES, resets=question)
        flows.close()
        assert (primed.primed, guard.counters()[RESETS]) == (FLOWS, 10)
    entries = host.run("conntrack -L -p tcp").stdout
    return entries.count(" CLOSE "), entries.count(" ESTABLISHED ")


@pytest.mark.parametrize("counter", ["", RESETS], ids=["all entries are read", "those of batches with resets are"])
def test_a_reset_closes_no_entry(host: Namespace, counter: str) -> None:
    """Ten of forty are rejected: all are established afterwards."""
    assert closed_and_established(host, counter) == (0, FLOWS)


def test_where_the_counter_is_gone_all_entries_are_read(host: Namespace) -> None:
    """A question that the kernel answers by an error tells nothing, so nothing is left out."""
    assert closed_and_established(host, "no such counter") == (0, FLOWS)


def test_entries_are_read_only_where_the_counter_has_changed(host: Namespace) -> None:
    """One that counts something else hides the resets: this is what the counter is for."""
    assert closed_and_established(host, arrived(Hook.FORWARD)) == (10, FLOWS - 10)
