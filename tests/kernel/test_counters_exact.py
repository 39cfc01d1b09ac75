"""Counters under traffic at full rate: a thousand changes of the table lose no packet and count none twice; and of the
packets that open busy flows again no more are in them than is told."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flood import ROUND, SENDERS, Flood, total
from limited import Shape
from rounds import rounds

import nfkeep
from nfkeep import CommitError, Counters, Family
from nfkeep.keep.transaction import transactions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limited import Service

    from nfkeep.keep.editing import TableEdits
    from nfkeep.model import Chain
    from nfkeep.namespaces import Namespace
    from nfkeep.testing.fixtures import TransferFactory

pytestmark = pytest.mark.kernel

TRANSACTIONS, REFUSED = rounds(1000), rounds(200)

RULES = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:first - [0:0]
:second - [0:0]
-A INPUT -i lo
-A INPUT -p udp --dport 7002 -j ACCEPT
-A OUTPUT -p udp
-A OUTPUT -p udp --dport 7001 -j first
-A OUTPUT -p udp --dport 7002 -j second
-A first -p udp -g second
-A first -p udp
-A second -p udp --dport 7001 -j RETURN
-A second -p udp --dport 7002 -j ACCEPT
COMMIT
"""


@pytest.fixture
def flood(namespace: Namespace) -> Iterator[Flood]:
    """Datagrams on lo, through RULES in the filter table."""
    namespace.run("iptables-legacy-restore", input=RULES)
    running = Flood(namespace)
    try:
        yield running
    finally:
        running.close()


def received(namespace: Namespace) -> int:
    """Packets that lo has taken in: those that were sent, but for what an overfull backlog drops before any rule."""
    with namespace:
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    return next(int(line.split()[2]) for line in lines if line.split()[0] == "lo:")


def expect_exact(namespace: Namespace, sent: dict[int, Counters]) -> None:
    """Every rule and policy that RULES brought has counted what was sent, and nothing else."""
    with namespace:
        chains = nfkeep.read("filter").chains
    first, second, both = sent[7001], sent[7002], total(sent[7001], sent[7002])
    assert min(each.packets for each in sent.values()) > SENDERS * ROUND, "nothing passed meanwhile"
    assert counted(chains["OUTPUT"]) == {
        "-p udp": total(both, sent[7003]),
        "-p udp -m udp --dport 7001 -j first": first,
        "-p udp -m udp --dport 7002 -j second": second,
    }
    assert counted(chains["first"]) == {"-p udp -g second": first, "-p udp": Counters()}
    assert counted(chains["second"]) == {
        "-p udp -m udp --dport 7001 -j RETURN": first,
        "-p udp -m udp --dport 7002 -j ACCEPT": second,
    }
    assert chains["OUTPUT"].counters == total(first, sent[7003])
    assert chains["FORWARD"].counters == Counters()
    arrived = counted(chains["INPUT"])
    assert chains["INPUT"].counters is not None
    assert arrived["-i lo"].packets == received(namespace)
    assert arrived["-i lo"] == total(chains["INPUT"].counters, arrived["-p udp -m udp --dport 7002 -j ACCEPT"])


def rules() -> dict[str, list[str]]:
    return {name: [str(rule) for rule in chain.rules] for name, chain in nfkeep.read("filter").chains.items()}


def counted(chain: Chain) -> dict[str, Counters]:
    return {str(rule): rule.counters for rule in chain.rules}


def change(tx: TableEdits, chance: random.Random, own: list[tuple[str, str]]) -> None:
    """Put in a rule that no packet here meets, somewhere, or take one out again."""
    if len(own) > 20:
        tx.delete(*own.pop(chance.randrange(len(own))))
        return
    chain = chance.choice(["INPUT", "FORWARD", "OUTPUT", "first", "second"])
    rule = f"-s 10.{chance.randrange(256)}.{chance.randrange(256)}.1 -p tcp -j DROP"
    if chance.random() < 0.5:
        tx.insert(chain, rule)
    else:
        tx.append(chain, rule)
    own.append((chain, rule))


def test_a_thousand_transactions(namespace: Namespace, flood: Flood) -> None:
    """Rules, user chains and policies have counted exactly what passed while the table was written a thousand times."""
    chance = random.Random(1)
    own: list[tuple[str, str]] = []
    with namespace:
        for _ in range(TRANSACTIONS):
            with nfkeep.transaction() as tx:
                change(tx, chance, own)
        sent = flood.stop()
        with nfkeep.transaction() as tx:
            for chain, rule in own:
                tx.delete(chain, rule)
    expect_exact(namespace, sent)


def change_both(second: tuple[str, Family], refused: str, chance: random.Random) -> None:
    with transactions(("filter", Family.IPV4), second) as txs:
        change(txs["filter", Family.IPV4], chance, [])
        txs[second].append("OUTPUT", refused)


@pytest.mark.parametrize(
    ("second", "refused"),
    [
        (("mangle", Family.IPV4), "-p udp -j REJECT"),  # the kernel has REJECT in filter only
        (("filter", Family.IPV6), "-j TCPMSS --set-mss 1"),  # and TCPMSS with -p tcp only
    ],
    ids=["mangle", "ipv6"],
)
def test_refused_transactions(namespace: Namespace, flood: Flood, second: tuple[str, Family], refused: str) -> None:
    """So they have if the kernel refuses the second of two tables each time, and the first one is put back."""
    chance = random.Random(2)
    with namespace:
        before = rules()
        for _ in range(REFUSED):
            with pytest.raises(CommitError) as caught:
                change_both(second, refused, chance)
            assert not caught.value.applied
        sent = flood.stop()
        assert rules() == before
    expect_exact(namespace, sent)


def test_opening_packets_of_busy_flows(start_service: Callable[..., Service], transfer: TransferFactory) -> None:
    """Flows that transfer at full speed are opened more than once, and rules take the first packets for theirs."""
    shape = Shape("TCP INPUT")
    rules = [shape.rule(873), "-m conntrack --ctstate ESTABLISHED -j ACCEPT", "-p tcp --syn --dport 873"]
    service = start_service(shape, rules=[f"-A INPUT {rule}" for rule in rules])
    transfers = [transfer(each, pause_seconds=0) for each in service.dial()]
    with service.gateway:
        for _ in range(rounds(30)):
            before = nfkeep.read("filter").chains["INPUT"].rules[2].counters
            with nfkeep.transaction("filter") as tx:
                tx.append("FORWARD", "-p tcp -j DROP")
            after = nfkeep.read("filter").chains["INPUT"].rules[2].counters
            [told] = [each.detail for each in tx.report.outcomes if each.kind == "counters"] or [""]
            assert told == "" or told.endswith(
                "opening packets of busy flows are in the counters of the rules that they met"
            )
            assert 0 <= after.packets - before.packets <= int(re.sub(r"\D", "", told) or 0)
    assert all(each.stop().intact for each in transfers)
