"""What is left of a quota: exact to the byte, through any number of changes by whomever."""

from __future__ import annotations

import shlex
import socket
import stat
from typing import TYPE_CHECKING

import pytest
from limited import NFKEEP

import nfkeep
from nfkeep import CommitError, Family, Fidelity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

PORT = 9
WHOLE = 100_000
RULE = f"-i lo -p udp --dport {PORT} -m quota --quota {WHOLE}"
HEADERS = {Family.IPV4: 28, Family.IPV6: 48}
HOME = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}
BINARY = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One for each test, to look into; and a lock of its own, as `nfkeep run` watches it."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    monkeypatch.setenv("NFKEEP_RUN_DIRECTORY", str(tmp_path / "run"))
    return tmp_path / "run"


def send(namespace: Namespace, size: int, count: int = 1, family: Family = Family.IPV4) -> None:
    """Datagrams of `size` bytes each, IP header and all, to a port that nobody listens at."""
    with namespace, socket.socket(family.value, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(bytes(size - HEADERS[family]), (HOME[family], PORT))


def figure(namespace: Namespace, position: int = 1, chain: str = "INPUT", family: Family = Family.IPV4) -> int:
    """The figure in a quota rule."""
    with namespace:
        words = str(nfkeep.read("filter", family).chains[chain].rules[position - 1]).split()
    return int(words[words.index("--quota") + 1])


def matched(namespace: Namespace, position: int = 1, chain: str = "INPUT") -> int:
    """Packets that a rule has counted."""
    with namespace:
        return nfkeep.read("filter").chains[chain].rules[position - 1].counters.packets


def plain(namespace: Namespace, arguments: str, family: Family = Family.IPV4) -> None:
    namespace.run(f"{BINARY[family]}-legacy {arguments}")


def change(namespace: Namespace, family: Family = Family.IPV4) -> nfkeep.Report:
    """A change that has nothing to do with quotas."""
    with namespace, nfkeep.transaction("filter", family) as tx:
        tx.append("FORWARD", "-j DROP")
    return tx.report


@pytest.mark.parametrize("family", list(Family), ids=str)
def test_exact_over_three_changes(namespace: Namespace, family: Family) -> None:
    """What was used comes off once, and only once; a change without traffic takes nothing off."""
    plain(namespace, f"-A INPUT {RULE}", family)
    left = WHOLE
    for size, count in ((100, 3), (777, 5), (1001, 7)):
        send(namespace, size, count, family)
        left -= size * count
        for _ in range(2):
            (outcome,) = change(namespace, family).outcomes
            assert outcome.fidelity is Fidelity.RESTORED
            assert outcome.detail.startswith(f"{left} of {WHOLE} bytes are left")
            assert figure(namespace, family=family) == left


@pytest.mark.parametrize("between", ["the rest", "nothing"])
def test_the_kernel_stops_where_it_would_have(namespace: Namespace, between: str) -> None:
    """Ten packets of a thousand bytes in all, with changes between them, and not one more."""
    plain(namespace, f"-A INPUT {RULE.replace(str(WHOLE), '10000')}")
    for _ in range(10):
        send(namespace, 1000)
        change(namespace)
    assert figure(namespace) == 0
    send(namespace, 1000, 3)
    if between == "the rest":
        change(namespace)
        send(namespace, 29, 3)
    assert matched(namespace) == 10


@pytest.mark.parametrize(("way", "packets"), [("ours", 5), ("iptables -Z", 2)])
def test_counters_put_to_zero(namespace: Namespace, way: str, packets: int) -> None:
    """They tell no longer what was used before, so the figure in the rule counts from then on.

    That iptables did it can be seen only until the rule has counted as much again.
    """
    plain(namespace, f"-A INPUT {RULE}")
    send(namespace, 1000, 4)
    change(namespace)
    if way == "ours":
        with namespace, nfkeep.transaction() as tx:
            tx.zero_counters("INPUT")
    else:
        plain(namespace, "-Z INPUT")
    assert figure(namespace) == WHOLE - 4000
    for changes in (1, 2):
        send(namespace, 1000, packets)
        change(namespace)
        assert figure(namespace) == WHOLE - 4000 - changes * packets * 1000


def test_zeroed_while_it_is_used(namespace: Namespace) -> None:
    """In one transaction: what the rule counted up to then is used all the same."""
    plain(namespace, f"-A INPUT {RULE}")
    send(namespace, 1000, 4)
    with namespace, nfkeep.transaction() as tx:
        tx.zero_counters()
    assert (figure(namespace), matched(namespace)) == (WHOLE - 4000, 0)
    send(namespace, 1000)
    change(namespace)
    assert figure(namespace) == WHOLE - 5000


def test_a_new_figure_begins_anew(namespace: Namespace) -> None:
    """A rule that the user replaces starts with what he wrote, and the ledger knows nothing of it."""
    plain(namespace, f"-A INPUT {RULE}")
    send(namespace, 1000, 4)
    change(namespace)
    with namespace, nfkeep.transaction() as tx:
        tx.replace("INPUT", 1, RULE.replace(str(WHOLE), "50000"))
    assert figure(namespace) == 50000
    send(namespace, 1000)
    change(namespace)
    assert figure(namespace) == 49000


def test_two_equal_rules(namespace: Namespace) -> None:
    """The second takes what the first does not; each keeps its own rest."""
    for _ in range(2):
        plain(namespace, f"-A INPUT {RULE.replace(str(WHOLE), '3000')} -j ACCEPT")
    send(namespace, 1000, 2)
    change(namespace)
    assert [figure(namespace, n) for n in (1, 2)] == [1000, 3000]
    send(namespace, 1000, 3)
    change(namespace)
    assert [figure(namespace, n) for n in (1, 2)] == [0, 1000]
    send(namespace, 1000, 3)
    change(namespace)
    assert [figure(namespace, n) for n in (1, 2)] == [0, 0]
    assert [matched(namespace, n) for n in (1, 2)] == [3, 3]


def test_equal_rules_that_have_counted_unequally(namespace: Namespace) -> None:
    """Two rules with the same rest and other counters: the same bytes do not count from the same figure."""
    for counted in ("-c 1 1000", ""):
        plain(namespace, f"-A INPUT {RULE} {counted}")
    with namespace, nfkeep.transaction() as tx:
        tx.insert("INPUT", "-s 192.0.2.1")
    assert [figure(namespace, n) for n in (2, 3)] == [WHOLE - 1000, WHOLE]
    plain(namespace, f"-R INPUT 3 {RULE.replace(str(WHOLE), str(WHOLE - 1000))}")
    send(namespace, 500)
    change(namespace)
    assert [figure(namespace, n) for n in (2, 3)] == [WHOLE - 1500, WHOLE - 1500]


def test_in_a_user_chain(namespace: Namespace) -> None:
    """Also where the chain is renamed meanwhile."""
    plain(namespace, "-N paid")
    plain(namespace, "-A INPUT -j paid")
    plain(namespace, f"-A paid {RULE} -j RETURN")
    send(namespace, 1000, 2)
    change(namespace)
    send(namespace, 1000)
    with namespace, nfkeep.transaction() as tx:
        tx.rename_chain("paid", "due")
    assert figure(namespace, chain="due") == WHOLE - 3000
    send(namespace, 1000)
    change(namespace)
    assert figure(namespace, chain="due") == WHOLE - 4000


def test_inverted(namespace: Namespace) -> None:
    """It matches behind the quota: used up it stays so, what is left before nobody can tell, and the report says so."""
    plain(namespace, f"-A INPUT {RULE.replace('--quota 100000', '! --quota 3000')}")
    send(namespace, 1000, 2)
    (outcome,) = change(namespace).outcomes
    assert outcome.fidelity is Fidelity.APPROXIMATED
    assert figure(namespace) == 3000
    send(namespace, 1000, 5)
    seen = matched(namespace)
    assert seen == 2
    for _ in range(2):
        (outcome,) = change(namespace).outcomes
        assert outcome.fidelity is Fidelity.APPROXIMATED
        assert figure(namespace) == 0
    send(namespace, 1000, 3)
    assert matched(namespace) == seen + 3


def test_a_match_behind_the_quota(namespace: Namespace) -> None:
    """The rule does not count what that match turns away: approximated. A comment turns nothing away."""
    plain(namespace, f"-A INPUT {RULE} -m length --length 0:500")
    plain(namespace, f"-A INPUT {RULE} -m comment --comment x")
    send(namespace, 1000)
    send(namespace, 400)
    one, other = change(namespace).outcomes
    assert (one.fidelity, other.fidelity) == (Fidelity.APPROXIMATED, Fidelity.RESTORED)
    assert [figure(namespace, n) for n in (1, 2)] == [WHOLE - 400, WHOLE - 1400]


def test_plain_iptables_in_between(namespace: Namespace) -> None:
    """It fills the kernel's quota again, to the figure in the rule; our next change writes the true rest."""
    plain(namespace, f"-A INPUT {RULE}")
    send(namespace, 1000, 3)
    change(namespace)
    send(namespace, 1000, 2)
    plain(namespace, "-A FORWARD -s 192.0.2.1")
    assert figure(namespace) == WHOLE - 3000
    send(namespace, 1000)
    change(namespace)
    assert figure(namespace) == WHOLE - 6000


def test_the_command_writes_the_rest(namespace: Namespace) -> None:
    """`nfkeep iptables` changes something else: afterwards the rule has the rest, run after run."""
    plain(namespace, f"-A INPUT {RULE}")
    for used in (2000, 4000):
        send(namespace, 1000, 2)
        namespace.run([*NFKEEP, "iptables", "-A", "FORWARD", "-s", "192.0.2.1"])
        assert figure(namespace) == WHOLE - used


def test_iptables_restore_without_counters(namespace: Namespace) -> None:
    """It puts the counters to zero, too: what is used from then on comes off the figure that it wrote."""
    plain(namespace, f"-A INPUT {RULE}")
    send(namespace, 1000, 3)
    change(namespace)
    namespace.run("iptables-legacy-restore", input=namespace.run("iptables-legacy-save").stdout)
    assert figure(namespace) == WHOLE - 3000
    send(namespace, 1000)
    change(namespace)
    assert figure(namespace) == WHOLE - 4000


@pytest.mark.parametrize("gone", ["the rule", "what it used"])
def test_the_ledger_is_there_while_it_is_needed(namespace: Namespace, run_directory: Path, gone: str) -> None:
    """A file for root alone in a directory for root alone; with the last rule that needs it, both go."""
    plain(namespace, f"-A INPUT {RULE}")
    change(namespace)
    assert not run_directory.exists()
    send(namespace, 1000)
    change(namespace)
    (folder,) = run_directory.iterdir()
    (ledger,) = folder.iterdir()
    assert ledger.name == "quotas"
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (run_directory, folder, ledger)]
    assert modes == [0o700, 0o700, 0o600]
    with namespace, nfkeep.transaction() as tx:
        if gone == "the rule":
            tx.flush("INPUT")
        else:
            tx.zero_counters()
    assert not run_directory.exists()


def test_a_ledger_that_is_garbage_counts_for_nothing(namespace: Namespace, run_directory: Path) -> None:
    """The figure in the rule is what is known then."""
    plain(namespace, f"-A INPUT {RULE}")
    send(namespace, 1000)
    change(namespace)
    (ledger,) = run_directory.glob("*/quotas")
    for garbage in (b"", b"[1, 2]", b'{"a": "b"}', b"\xff", b"null"):
        ledger.write_bytes(garbage)
        change(namespace)
        assert 0 <= figure(namespace) <= WHOLE - 1000


@pytest.mark.parametrize("refused", ["by the kernel", "by the user"])
def test_a_change_that_is_not_made_takes_nothing_off(
    namespace: Namespace, refused: str, namespace_factory: Callable[[], Namespace]
) -> None:
    """The ledger has to know the rules that stay."""
    plain(namespace, f"-A INPUT {RULE}")
    send(namespace, 1000)
    change(namespace)
    send(namespace, 1000)
    if refused == "by the kernel":
        with namespace, pytest.raises(CommitError), nfkeep.transaction() as tx:
            tx.append("INPUT", "-j MASQUERADE")
    else:
        with namespace, pytest.raises(ZeroDivisionError), nfkeep.transaction() as tx:
            tx.append("INPUT", f"-m comment --comment {1 // 0}")
    send(namespace, 1000)
    change(namespace)
    assert figure(namespace) == WHOLE - 3000
    change(namespace_factory())  # another namespace has a ledger of its own
    change(namespace)
    assert figure(namespace) == WHOLE - 3000


def command(namespace: Namespace, arguments: str, family: Family = Family.IPV4) -> str:
    """What `nfkeep iptables` says."""
    return namespace.run([*NFKEEP, BINARY[family], *arguments.split()]).stderr


def run(namespace: Namespace, script: str) -> str:
    """What `nfkeep run` says of a shell script."""
    return namespace.run([*NFKEEP, "run", "--", "sh", "-ec", script]).stderr


def test_equal_rules_under_run(namespace: Namespace) -> None:
    """One in front and one away, by plain iptables: each keeps its rest and its counter, and one more does so, too."""
    plain(namespace, f"-A INPUT {RULE} -j ACCEPT -c 50 50000")
    plain(namespace, f"-A INPUT {RULE} -j ACCEPT -c 1 1000")
    run(namespace, f"iptables-legacy -I INPUT {RULE} -j ACCEPT")
    assert [figure(namespace, n) for n in (1, 2, 3)] == [WHOLE, WHOLE - 50000, WHOLE - 1000]
    assert [matched(namespace, n) for n in (1, 2, 3)] == [0, 50, 1]
    plain(namespace, "-D INPUT 1")
    plain(namespace, f"-R INPUT 1 {RULE} -j ACCEPT -c 50 50000")
    plain(namespace, f"-R INPUT 2 {RULE} -j ACCEPT -c 1 1000")
    run(namespace, "iptables-legacy -D INPUT 1")
    assert (figure(namespace), matched(namespace)) == (WHOLE - 1000, 1)


def test_one_of_two_equal_rules_goes(namespace: Namespace) -> None:
    """What the other one has counted tells which one it is, whoever makes the change."""
    for _ in range(2):
        for counted in ("50 50000", "1 1000"):
            plain(namespace, f"-A INPUT {RULE} -j ACCEPT -c {counted}")
    command(namespace, "-D INPUT 1")
    assert [figure(namespace, n) for n in (1, 2, 3)] == [WHOLE - 1000, WHOLE - 50000, WHOLE - 1000]
    with namespace, nfkeep.transaction() as tx:
        tx.delete("INPUT", position=2)
    assert [figure(namespace, n) for n in (1, 2)] == [WHOLE - 1000, WHOLE - 1000]


def test_an_equal_rule_in_front(namespace: Namespace) -> None:
    """It begins with all of its quota, and the one that was there goes on."""
    plain(namespace, f"-A INPUT {RULE} -c 20 20000")
    said = command(namespace, f"-I INPUT {RULE}")
    assert said == f"nfkeep: quota at IPv4 filter INPUT rule 2: restored (80000 of {WHOLE} bytes are left)\n"
    assert [figure(namespace, n) for n in (1, 2)] == [WHOLE, 80000]


@pytest.mark.parametrize("way", ["ours", "the command"])
def test_renamed_beside_an_equal_rule(namespace: Namespace, way: str) -> None:
    """Chains that are renamed keep what is theirs, also where one takes the name of the other."""
    for chain, counted in (("aaa", "10 10000"), ("bbb", "50 50000")):
        plain(namespace, f"-N {chain}", Family.IPV6)
        plain(namespace, f"-A {chain} {RULE} -c {counted}", Family.IPV6)
    if way == "ours":
        with namespace, nfkeep.transaction("filter", Family.IPV6) as tx:
            tx.rename_chain("aaa", "ccc")
            tx.rename_chain("bbb", "aaa")
        names = ("ccc", "aaa")
    else:
        command(namespace, "-E bbb a00", Family.IPV6)
        names = ("aaa", "a00")
    figures = [figure(namespace, chain=chain, family=Family.IPV6) for chain in names]
    assert figures == [WHOLE - 10000, WHOLE - 50000]


def test_two_quotas_in_one_rule(namespace: Namespace) -> None:
    """Each gets its own rest; the first also takes packets that the second refuses, so it is approximated."""
    plain(namespace, f"-A INPUT {RULE} -m quota --quota 50000 -j ACCEPT")
    for used in (20000, 40000):
        send(namespace, 1000, 20)
        (outcome,) = change(namespace).outcomes
        assert outcome.fidelity is Fidelity.APPROXIMATED
        assert outcome.detail.startswith(f"{WHOLE - used} of {WHOLE} and {50000 - used} of 50000 bytes are left")
        with namespace:
            words = str(nfkeep.read("filter").chains["INPUT"].rules[0]).split()
        figures = [int(words[at + 1]) for at, word in enumerate(words) if word == "--quota"]
        assert figures == [WHOLE - used, 50000 - used]


RELOADS = {
    "restored": "iptables-legacy-restore {file}",
    "flushed first": "iptables-legacy -F; sleep 0.1; iptables-legacy-restore {file}",
    "flushed by the command": "{nfkeep} iptables -F; iptables-legacy-restore {file}",
    "rule by rule": f"iptables-legacy -F; sleep 0.1; iptables-legacy -A INPUT {RULE}",
    "something else": "iptables-legacy -A FORWARD -s 192.0.2.1",
    "something else, twice": "iptables-legacy -A FORWARD -s 192.0.2.1; sleep 0.1; iptables-legacy -F FORWARD",
}


@pytest.mark.parametrize("way", RELOADS.values(), ids=RELOADS)
def test_reloaded_again_and_again(namespace: Namespace, tmp_path: Path, way: str) -> None:
    """The file has the figure of the beginning each time, or one of before the last change: used is used."""
    plain(namespace, f"-A INPUT {RULE}")
    script = way.format(file=tmp_path / "rules", nfkeep=shlex.join(NFKEEP))
    for used in (10000, 20000, 30000):
        if used != 30000:
            (tmp_path / "rules").write_text(namespace.run("iptables-legacy-save").stdout)
        send(namespace, 1000, 10)
        said = run(namespace, script)
        assert said == (
            f"nfkeep: quota at IPv4 filter INPUT rule 1: restored ({WHOLE - used} of {WHOLE} bytes are left)\n"
        )
        assert (figure(namespace), matched(namespace)) == (WHOLE - used, used // 1000)


def test_another_figure_is_told(namespace: Namespace) -> None:
    """A rule that comes back with a figure that nobody knows begins anew, and the report says so."""
    plain(namespace, f"-A INPUT {RULE}")
    send(namespace, 1000)
    said = run(namespace, f"iptables-legacy -R INPUT 1 {RULE.replace(str(WHOLE), '70000')}")
    assert said == (
        "nfkeep: quota at IPv4 filter INPUT rule 1: approximated (begins with 70000 bytes, as the rule says now; of "
        f"{WHOLE} there were {WHOLE - 1000} left)\n"
    )
    assert figure(namespace) == 70000


def test_an_earlier_save_with_counters(namespace: Namespace) -> None:
    """What the rule had counted when its figure was written is known still, and comes off once."""
    plain(namespace, f"-A INPUT {RULE}")
    send(namespace, 1000, 10)
    change(namespace)
    saved = namespace.run("iptables-legacy-save -c").stdout
    send(namespace, 1000, 10)
    change(namespace)
    namespace.run("iptables-legacy-restore -c", input=saved)
    send(namespace, 1000)
    change(namespace)
    assert figure(namespace) == WHOLE - 11000


def test_counted_more_than_there_was(namespace: Namespace) -> None:
    """A counter from a save, or a quota that others have filled: from what figure it counts down nobody knows."""
    plain(namespace, f"-A INPUT {RULE} -c 200 200000")
    (outcome,) = change(namespace).outcomes
    assert outcome.fidelity is Fidelity.APPROXIMATED
    assert "has counted more" in outcome.detail


def test_counters_that_another_rule_tells_were_put_to_zero(namespace: Namespace) -> None:
    """A restore without counters fills the quota; where that shows in other rules alone, nobody knows what is left."""

    def told(namespace: Namespace) -> nfkeep.Outcome:
        (outcome,) = (each for each in change(namespace).outcomes if each.kind == "quota")
        return outcome

    plain(namespace, f"-A INPUT {RULE}")
    plain(namespace, "-A INPUT -m limit --limit 1/s -c 7000 7000000")
    send(namespace, 1000, 10)
    change(namespace)
    plain(namespace, "-A FORWARD -s 192.0.2.1")
    assert told(namespace).fidelity is Fidelity.RESTORED
    namespace.run("iptables-legacy-restore", input=namespace.run("iptables-legacy-save").stdout)
    send(namespace, 1000, 11)
    outcome = told(namespace)
    assert outcome.fidelity is Fidelity.APPROXIMATED
    assert "counters of other rules were put to zero" in outcome.detail
    send(namespace, 1000)
    assert told(namespace).fidelity is Fidelity.RESTORED
