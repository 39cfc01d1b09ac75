"""Transactions over several legacy tables: all of them are changed or none, with the state of each kept."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
from limited import LIMIT, Shape

import nfkeep
from nfkeep import CommitError, ConflictError, Counters, Family, Fidelity, InvalidRuleError, NfkeepError
from nfkeep.keep.hold import held
from nfkeep.testing import living
from nfkeep.xtables import recent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from limited import Service

    from nfkeep.keep.transaction import Transactions
    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

FILTER = ("filter", Family.IPV4)
MANGLE = ("mangle", Family.IPV4)
RAW = ("raw", Family.IPV4)
FILTER6 = ("filter", Family.IPV6)
MANGLE6 = ("mangle", Family.IPV6)

SETS = {
    "two of one family": (FILTER, MANGLE),
    "both families": (FILTER, FILTER6),
    "three": (FILTER6, RAW, MANGLE),
}
each_set = pytest.mark.parametrize("tables", SETS.values(), ids=SETS)
BANNED = {Family.IPV4: "-s 192.0.2.1 -j DROP", Family.IPV6: "-s fd99::1 -j DROP"}

RECENT = "-p tcp --dport 22 -m recent --name ssh --set"
QUOTA = "-i lo -p udp --dport 9 -m quota --quota 100000"


def saved(namespace: Namespace) -> str:
    """All tables of both families with their counters, but for comments."""
    both = [namespace.run(f"{binary}-save -c").stdout for binary in ("iptables-legacy", "ip6tables-legacy")]
    return "".join(line for text in both for line in text.splitlines(keepends=True) if not line.startswith("#"))


def loop(txs: Transactions, table: tuple[str, Family]) -> None:
    """What only the kernel finds fault with."""
    txs[table].new_chain("a")
    txs[table].new_chain("b")
    txs[table].append("a", "-j b")
    txs[table].append("b", "-j a")
    txs[table].append("OUTPUT", "-j a")


def misplaced(txs: Transactions, table: tuple[str, Family]) -> None:
    """A target for the table nat only."""
    txs[table].append("PREROUTING" if table[0] == "raw" else "OUTPUT", "-j MASQUERADE")


def refused(namespace: Namespace, tables: Iterable[tuple[str, Family]], edit: Callable[[Transactions], None]) -> None:
    """Make changes that the kernel refuses; nothing may be live then."""

    def change() -> None:
        with nfkeep.transactions(*tables) as txs:
            edit(txs)

    with namespace, pytest.raises(CommitError) as caught:
        change()
    assert caught.value.applied is False


def send(namespace: Namespace, size: int, count: int = 1) -> None:
    """Datagrams of `size` bytes in all, from the IPv4 header on, to a port that nobody listens at."""
    with namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(bytes(size - 28), ("127.0.0.1", 9))


def figure(namespace: Namespace, table: str = "filter", chain: str = "INPUT", position: int = 1) -> int:
    """The figure in a quota rule."""
    with namespace:
        rule = nfkeep.read(table).chains[chain].rules[position - 1]
    words = str(rule).split()
    return int(words[words.index("--quota") + 1])


@each_set
def test_all_are_changed(namespace: Namespace, tables: tuple[tuple[str, Family], ...]) -> None:
    """Each table gets its own changes, and one report tells of all."""
    with namespace:
        with nfkeep.transactions(*tables) as txs:
            assert tuple(txs) == tables
            for table in tables:
                txs[table].append("OUTPUT", BANNED[table[1]])
        for name, family in tables:
            (rule,) = nfkeep.read(name, family).chains["OUTPUT"].rules
            assert rule == nfkeep.Rule.parse(BANNED[family], family)
    assert txs.report == nfkeep.Report()


def test_the_report_tells_of_all_tables(namespace: Namespace) -> None:
    """What became of each state, whatever its table and family."""
    quota = "-m quota --quota 5000"
    with namespace:
        for tables in ((), (FILTER, MANGLE, FILTER6)):  # without tables: nothing to do
            with nfkeep.transactions(*tables) as txs:
                for table in tables:
                    txs[table].append("INPUT", quota)
        with nfkeep.transactions(FILTER, MANGLE, FILTER6) as txs:
            for table in txs:
                txs[table].append("INPUT", BANNED[table[1]])
    assert {(outcome.kind, outcome.where, outcome.fidelity) for outcome in txs.report.outcomes} == {
        ("quota", f"{where} INPUT rule 1", Fidelity.RESTORED) for where in ("IPv4 filter", "IPv4 mangle", "IPv6 filter")
    }


def test_a_table_that_is_not_edited_is_not_replaced(namespace: Namespace) -> None:
    """Its bucket of the match limit, which each replace fills again, is not mentioned."""
    namespace.run("iptables-legacy -t mangle -A INPUT -m limit --limit 1/min")
    with namespace, nfkeep.transactions(FILTER, MANGLE) as txs:
        txs[FILTER].append("INPUT", BANNED[Family.IPV4])
    assert txs.report == nfkeep.Report()


@pytest.mark.parametrize("fault", [loop, misplaced])
@each_set
def test_what_one_table_is_refused_none_gets(
    namespace: Namespace, tables: tuple[tuple[str, Family], ...], fault: Callable[..., None]
) -> None:
    """The kernel refuses the last table: the others are byte for byte what they were, and count on."""
    namespace.run("iptables-legacy -A INPUT -i lo -p udp --dport 9")
    namespace.run("ip6tables-legacy -N kept")
    namespace.run("ip6tables-legacy -A kept -s fd99::9 -c 7 700 -j RETURN")
    with namespace:
        for name, family in tables:
            nfkeep.read(name, family)  # reading sets it up
    send(namespace, 100, 5)
    before = saved(namespace)

    def edit(txs: Transactions) -> None:
        for table in tables:
            txs[table].flush()
            txs[table].zero_counters()
            txs[table].append("OUTPUT", BANNED[table[1]])
        fault(txs, tables[-1])

    refused(namespace, tables, edit)
    assert saved(namespace) == before
    send(namespace, 100, 5)
    with namespace:
        (rule,) = nfkeep.read("filter").chains["INPUT"].rules
    assert rule.counters == Counters(10, 1000)


def test_the_counts_of_an_earlier_table_are_kept(start_service: Callable[..., Service]) -> None:
    """A later table is refused: the limit of an earlier one holds, and no rule has counted a packet more."""
    service = start_service(Shape("INPUT"))
    old = service.dial()
    assert len(old) == LIMIT
    service.plain("-A INPUT -s 192.0.2.9 -c 3 33")
    before = saved(service.gateway)

    def edit(txs: Transactions) -> None:
        txs[FILTER].append("INPUT", BANNED[Family.IPV4])
        loop(txs, MANGLE)

    refused(service.gateway, (FILTER, MANGLE), edit)
    rules = [line for line in saved(service.gateway).splitlines() if "] -A" in line]
    assert rules == [line for line in before.splitlines() if "] -A" in line]
    assert service.dial() == []
    assert len(living(old)) == LIMIT


def test_limits_in_two_tables_hold_through_one_change(start_service: Callable[..., Service]) -> None:
    """Both tables are replaced: the count of each is restored."""
    limit = "-p tcp --syn --dport 873 -m connlimit --connlimit-above 10 -j DROP"
    service = start_service(Shape("INPUT"), rules=[f"-A INPUT {limit}", f"-t mangle -A PREROUTING {limit}"])
    old = service.dial()
    with service.gateway, nfkeep.transactions(FILTER, MANGLE) as txs:
        for table in txs:
            txs[table].append("INPUT", BANNED[Family.IPV4])
    assert {(o.where, o.fidelity) for o in txs.report.outcomes if o.kind == "connlimit"} == {
        ("IPv4 filter INPUT rule 1", Fidelity.RESTORED),
        ("IPv4 mangle PREROUTING rule 1", Fidelity.RESTORED),
    }
    assert service.dial() == []
    service.plain("-F INPUT")
    assert service.dial() == []  # the other one alone
    assert len(living(old)) == LIMIT


def test_quotas_are_kept_when_it_is_put_back(namespace: Namespace) -> None:
    """The rest of a quota in an earlier table, after a change that was refused, and exact again after the next."""
    namespace.run(f"iptables-legacy -A INPUT {QUOTA}")
    send(namespace, 1000, 3)
    with namespace, nfkeep.transaction() as tx:
        tx.append("FORWARD", BANNED[Family.IPV4])
    assert figure(namespace) == 97000
    send(namespace, 1000, 2)

    def edit(txs: Transactions) -> None:
        txs[FILTER].flush("FORWARD")
        loop(txs, MANGLE)

    refused(namespace, (FILTER, MANGLE), edit)
    assert figure(namespace) == 95000
    send(namespace, 1000)
    with namespace, pytest.raises(CommitError), nfkeep.transaction() as tx:
        tx.append("INPUT", "-j MASQUERADE")
    with namespace, nfkeep.transaction() as tx:
        tx.append("FORWARD", BANNED[Family.IPV4])
    assert figure(namespace) == 94000


def test_holds_are_right_when_it_is_put_back(namespace: Namespace) -> None:
    """A list whose last rule would have gone is alive, and not held, after the change was refused."""

    def edit(txs: Transactions) -> None:
        txs[FILTER].flush("INPUT")
        loop(txs, MANGLE)

    namespace.run(f"iptables-legacy -A INPUT {RECENT}")
    with namespace:
        with open("/proc/thread-self/net/xt_recent/ssh", "w") as control:
            control.write("+192.0.2.7\n")
        refused(namespace, (FILTER, MANGLE), edit)
        assert held(Family.IPV4) == frozenset()
        assert recent.entries("ssh") == 1
        with nfkeep.transactions(FILTER, MANGLE) as txs:
            txs[FILTER].flush("INPUT")
            txs[MANGLE].append("INPUT", BANNED[Family.IPV4])
        assert held(Family.IPV4) == {("recent", "ssh")}
        assert recent.entries("ssh") == 1
        with nfkeep.transactions(FILTER, MANGLE) as txs:  # it comes back in the other table
            txs[MANGLE].append("INPUT", RECENT)
        assert held(Family.IPV4) == frozenset()
        assert recent.entries("ssh") == 1


def test_a_list_that_moves_to_another_table_is_not_held(namespace: Namespace) -> None:
    """In one transaction it loses its last rule here and gets one there."""
    namespace.run(f"iptables-legacy -A INPUT {RECENT}")
    with namespace:
        with open("/proc/thread-self/net/xt_recent/ssh", "w") as control:
            control.write("+192.0.2.7\n")
        for gone, there in ((FILTER, MANGLE), (MANGLE, FILTER)):  # either order of the replaces
            with nfkeep.transactions(FILTER, MANGLE) as txs:
                txs[gone].flush("INPUT")
                txs[there].append("INPUT", RECENT)
            assert recent.entries("ssh") == 1
            assert held(Family.IPV4) == frozenset()


def test_an_exception_changes_nothing(namespace: Namespace) -> None:
    """Leaving the block by one leaves all tables as they were, and the lock free."""

    def fail() -> None:
        with nfkeep.transactions(FILTER, FILTER6) as txs:
            for table in txs:
                txs[table].append("INPUT", BANNED[table[1]])
            raise ZeroDivisionError

    with namespace:
        nfkeep.read(*FILTER6)
        nfkeep.read(*FILTER)
        before = saved(namespace)
        with pytest.raises(ZeroDivisionError):
            fail()
        with nfkeep.transactions(FILTER, lock_timeout=0.1):
            pass
    assert saved(namespace) == before


def test_a_table_that_is_none_of_them(namespace: Namespace) -> None:
    """Asking for it names those that there are; a table that no kernel has is refused at once."""
    with namespace, nfkeep.transactions(FILTER) as txs, pytest.raises(NfkeepError, match="none of this transaction's"):
        _ = txs[FILTER6]
    with pytest.raises(InvalidRuleError, match="no table 'fliter'"):
        nfkeep.transactions(FILTER, ("fliter", Family.IPV4))


@pytest.mark.parametrize("victim", [FILTER, MANGLE], ids=["the first", "the last"])
@pytest.mark.parametrize("command", ["-A INPUT -s 192.0.2.9", "-R INPUT 1 -s 192.0.2.9"], ids=["added", "replaced"])
def test_a_writer_that_ignores_the_lock(
    namespace: Namespace, tmp_path: Path, victim: tuple[str, Family], command: str
) -> None:
    """It comes during the block, to whichever table: ConflictError, its change stays, and none of ours is made."""
    for table in ("filter", "mangle"):
        namespace.run(f"iptables-legacy -t {table} -A INPUT -s 192.0.2.8")
    elsewhere = {**os.environ, "XTABLES_LOCKFILE": str(tmp_path / "other.lock")}
    theirs = ""

    def change() -> None:
        nonlocal theirs
        with nfkeep.transactions(FILTER, MANGLE) as txs:
            for table in txs:
                txs[table].append("INPUT", BANNED[Family.IPV4])
            namespace.run(f"iptables-legacy -t {victim[0]} {command}", env=elsewhere)
            theirs = saved(namespace)

    with namespace, pytest.raises(ConflictError) as caught:
        change()
    assert caught.value.table == victim[0]
    assert saved(namespace) == theirs
