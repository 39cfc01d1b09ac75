"""Transactions on legacy tables: every operation, all or nothing, and a clear error for each thing that goes wrong."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from seccomp import SETSOCKOPT, SOCKET, forbid

import nfkeep
from nfkeep import (
    CommitError,
    ConflictError,
    Counters,
    Family,
    InvalidRuleError,
    LockTimeoutError,
    NfkeepError,
    PermissionDeniedError,
    Rule,
    StateLossError,
)
from nfkeep.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

FAMILIES = pytest.mark.parametrize("family", list(Family), ids=str)


def saved(namespace: Namespace, family: Family = Family.IPV4) -> list[str]:
    binary = "iptables-legacy" if family is Family.IPV4 else "ip6tables-legacy"
    return namespace.run(f"{binary} -S").stdout.splitlines()


@FAMILIES
def test_every_operation(namespace: Namespace, family: Family) -> None:
    """What a transaction does is what iptables then shows."""
    with namespace, nfkeep.transaction("filter", family) as tx:
        tx.new_chain("x")
        tx.new_chain("gone")
        tx.append("INPUT", Rule.parse("-p tcp --dport 22 -j ACCEPT", family))
        tx.append("INPUT", "-p tcp --dport 80 -j x")
        tx.insert("INPUT", "-i lo -j ACCEPT", position=1)
        tx.append("x", "-p tcp -j RETURN")
        tx.replace("INPUT", 2, "-p tcp --dport 2222 -j ACCEPT")
        tx.append("OUTPUT", "-p udp -j DROP")
        tx.append("OUTPUT", "-p tcp -j DROP")
        tx.delete("OUTPUT", "-p udp -j DROP")
        tx.delete("OUTPUT", position=1)
        tx.append("FORWARD", "-j DROP")
        tx.flush("FORWARD")
        tx.delete_chain("gone")
        tx.rename_chain("x", "y")
        tx.set_policy("FORWARD", "DROP")
    assert saved(namespace, family) == [
        "-P INPUT ACCEPT",
        "-P FORWARD DROP",
        "-P OUTPUT ACCEPT",
        "-N y",
        "-A INPUT -i lo -j ACCEPT",
        "-A INPUT -p tcp -m tcp --dport 2222 -j ACCEPT",
        "-A INPUT -p tcp -m tcp --dport 80 -j y",
        "-A y -p tcp -j RETURN",
    ]
    assert tx.report == nfkeep.Report()


def test_counters_are_read_kept_and_zeroed(namespace: Namespace) -> None:
    """Counters come through a change exactly, and zero_counters sets them to zero."""
    namespace.run("iptables-legacy -A INPUT -i lo -p udp -c 5 700")
    with namespace:
        with nfkeep.transaction() as tx:
            tx.append("INPUT", "-p tcp -j ACCEPT")
        assert nfkeep.read("filter").chains["INPUT"].rules[0].counters == Counters(5, 700)
        with nfkeep.transaction() as tx:
            tx.zero_counters("INPUT")
        assert nfkeep.read("filter").chains["INPUT"].rules[0].counters == Counters(0, 0)
        with nfkeep.transaction() as tx:
            tx.append("INPUT", Rule.parse("-p udp -c 3 4 -j ACCEPT"))
        assert nfkeep.read("filter").chains["INPUT"].rules[2].counters == Counters(3, 4)


@FAMILIES
def test_no_packet_is_lost_from_a_counter(namespace: Namespace, family: Family) -> None:
    """Datagrams pass while the table is replaced a hundred times: rule and policy have counted each exactly once."""
    address = "127.0.0.1" if family is Family.IPV4 else "::1"
    sent = 0
    stop = threading.Event()
    with namespace:
        with nfkeep.transaction("filter", family) as tx:
            tx.append("INPUT", "-p udp")
        receiver = socket.socket(family.value, socket.SOCK_DGRAM)
        receiver.bind((address, 0))
        sender = socket.socket(family.value, socket.SOCK_DGRAM)
        sender.connect(receiver.getsockname()[:2])

        def send() -> None:
            nonlocal sent
            while not stop.is_set():
                sender.send(b"x")
                sent += 1

        thread = threading.Thread(target=send)
        thread.start()
        try:
            for number in range(100):
                assert wait_until(lambda least=10 * number: sent > least)
                with nfkeep.transaction("filter", family) as tx:
                    tx.append("FORWARD", "-p tcp -j DROP")
                    if number % 2:
                        tx.insert("INPUT", "-p tcp -j DROP")
                        tx.delete("INPUT", "-p tcp -j DROP")
        finally:
            stop.set()
            thread.join()
        sender.close()
        receiver.close()
        chain = nfkeep.read("filter", family).chains["INPUT"]
    assert sent > 990
    assert chain.rules[0].counters.packets == sent
    assert chain.counters is not None
    assert chain.counters.packets >= sent


def test_policy_counters_begin_anew_where_asked(namespace: Namespace) -> None:
    """zero_counters and set_policy set a policy's counters to zero, and no other's."""
    namespace.run("iptables-legacy-restore -c", input="*filter\n:INPUT ACCEPT [3:30]\n:FORWARD ACCEPT [4:40]\n"
                  ":OUTPUT ACCEPT [5:50]\nCOMMIT\n")  # fmt: skip
    with namespace:
        with nfkeep.transaction() as tx:
            tx.zero_counters("INPUT")
            tx.set_policy("FORWARD", "DROP")
        chains = nfkeep.read("filter").chains
        assert [chains[name].counters for name in ("INPUT", "FORWARD", "OUTPUT")] == [
            Counters(),
            Counters(),
            Counters(5, 50),
        ]


def test_an_exception_changes_nothing(namespace: Namespace) -> None:
    """Leaving the block by an exception leaves the table as it was and the lock free."""
    before = saved(namespace)
    with namespace:
        tx = nfkeep.transaction()
        with pytest.raises(ZeroDivisionError), tx:
            append_and_fail(tx)
        with pytest.raises(NfkeepError, match="not committed"):
            _ = tx.report
        with nfkeep.transaction(lock_timeout=0.1):
            pass
    assert saved(namespace) == before


def append_and_fail(tx: nfkeep.Transaction) -> None:
    tx.append("INPUT", "-j DROP")
    raise ZeroDivisionError


def test_a_transaction_is_for_one_use(namespace: Namespace) -> None:
    """Neither using it outside its block nor entering it again works."""
    with namespace:
        tx = nfkeep.transaction()
        with pytest.raises(NfkeepError, match="not open"):
            tx.append("INPUT", "-j DROP")
        with tx:
            pass
        with pytest.raises(NfkeepError, match="one use"), tx:
            pass


REFUSED = {
    "an option that is none": (lambda tx: tx.append("INPUT", "--bogus"), 'unknown option "--bogus"'),
    "no such match": (lambda tx: tx.append("INPUT", "-m bogus"), "Couldn't load match `bogus'"),
    "no such target": (lambda tx: tx.append("INPUT", "-j BOGUS"), "Couldn't load target `BOGUS'"),
    "no such chain": (lambda tx: tx.append("BOGUS", "-j DROP"), "has no chain 'BOGUS'"),
    "a missing argument": (lambda tx: tx.append("INPUT", "-p tcp --dport"), 'option "--dport" requires an argument'),
    "a bad address": (lambda tx: tx.append("INPUT", "-s 10.0.0.300"), "host/network `10.0.0.300' not found"),
    "a bad value": (lambda tx: tx.append("INPUT", "-m connlimit --connlimit-above x"), "connlimit"),
    "options that exclude each other": (
        lambda tx: tx.append("INPUT", "-m connlimit --connlimit-above 1 --connlimit-upto 1"), "connlimit"),
    "several addresses": (lambda tx: tx.append("INPUT", "-s 10.0.0.1,10.0.0.2"), "one rule for each"),
    "the way out of what comes in": (lambda tx: tx.append("INPUT", "-o eth0 -j DROP"), "Can't use -o with INPUT"),
    "the way in of what is sent": (lambda tx: tx.insert("OUTPUT", "! -i eth+"), "Can't use -i with OUTPUT"),
    "going to a verdict": (lambda tx: tx.append("INPUT", "-g DROP"), "goto 'DROP' is not a chain"),
    "an open quote": (lambda tx: tx.append("INPUT", '-m comment --comment "x'), "never closed"),
    "a rule that is not there": (lambda tx: tx.delete("INPUT", "-j DROP"), "does a matching rule exist"),
    "a position that is not there": (lambda tx: tx.delete("INPUT", position=9), "Index of deletion too big"),
    "position zero": (lambda tx: tx.insert("INPUT", "-j DROP", position=0), "positions count from 1"),
    "inserting too far": (lambda tx: tx.insert("INPUT", "-j DROP", position=5), "Index of insertion too big"),
    "replacing nothing": (lambda tx: tx.replace("INPUT", 1, "-j DROP"), "Index of replacement too big"),
    "a chain that exists": (lambda tx: tx.new_chain("INPUT"), "Chain already exists"),
    "a chain name with a space": (lambda tx: tx.new_chain("a b"), "invalid chain name"),
    "a chain name with a dash": (lambda tx: tx.new_chain("-x"), "invalid chain name"),
    "a chain name too long": (lambda tx: tx.new_chain("x" * 29), "too long"),
    "a base chain deleted": (lambda tx: tx.delete_chain("INPUT"), "Can't delete built-in chain"),
    "a policy that is none": (lambda tx: tx.set_policy("INPUT", "MAYBE"), "Bad policy name"),
    "neither rule nor position": (lambda tx: tx.delete("INPUT"), "either a rule or a position"),
    "a rule of the other family": (
        lambda tx: tx.append("INPUT", Rule.parse("-j DROP", Family.IPV6)), "an IPv6 rule cannot go into"),
    "a chain still in use": (
        lambda tx: (tx.new_chain("x"), tx.append("INPUT", "-j x"), tx.delete_chain("x")), "references left"),
}  # fmt: skip


@pytest.mark.parametrize(("act", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_at_once(namespace: Namespace, act: object, words: str) -> None:
    """A bad rule, chain or position raises InvalidRuleError in iptables' own words, and nothing is changed."""
    before = saved(namespace)
    with namespace, pytest.raises(InvalidRuleError) as caught, nfkeep.transaction() as tx:
        act(tx)
    assert words in str(caught.value)
    assert saved(namespace) == before


NO_RULES: dict[str, Callable[[bytes, int], bytes]] = {
    "nothing": lambda _entry, _at: b"",
    "less than a head": lambda _entry, _at: bytes(80),
    "a head": lambda entry, at: entry[:at],
    "only zeros": lambda entry, _at: bytes(len(entry)),
    "a target without an end": lambda entry, _at: entry[:-8],
    "more than a rule": lambda entry, _at: entry + bytes(8),
    "a target behind the end": lambda entry, at: patched(entry, offsets(at), 60000),
    "a target in the head": lambda entry, at: patched(entry, offsets(at), at - 8),
    "a target where there is no room": lambda entry, at: patched(entry, offsets(at), len(entry) - 16),
    "no end": lambda entry, at: patched(entry, offsets(at) + 2, 0),
    "a later end": lambda entry, at: patched(entry, offsets(at) + 2, len(entry) + 8),
    "a match of no size": lambda entry, at: patched(entry, at, 0),
    "a match without room for its name": lambda entry, at: patched(entry, at, 24),
    "a match that ends where nothing can begin": lambda entry, at: patched(entry, at, 49),
    "a match into the target": lambda entry, at: patched(entry, at, 56),
    "a match behind the end": lambda entry, at: patched(entry, at, 65528),
    "a name of a match without an end": lambda entry, at: entry[: at + 2] + b"x" * 29 + entry[at + 31 :],
    "a target of no size": lambda entry, at: patched(entry, at + 48, 0),
    "a longer target": lambda entry, at: patched(entry, at + 48, 65528),
    "a name of a target without an end": lambda entry, at: entry[: at + 50] + b"x" * 29 + entry[at + 79 :],
    "the head of a chain": lambda entry, at: entry[: at + 50] + b"ERROR\0" + entry[at + 56 :],
    "more than there can be": lambda entry, _at: entry + bytes(1 << 16),
    "more than there can be, once its target is a verdict": lambda entry, at: longest(entry, at),
}


def offsets(head: int) -> int:
    """Where target_offset and next_offset lie in a head of so many bytes."""
    return head - 24 if head == 112 else head - 28


def patched(entry: bytes, at: int, value: int) -> bytes:
    return entry[:at] + value.to_bytes(2, "little") + entry[at + 2 :]


def longest(entry: bytes, head: int) -> bytes:
    """A match that leaves a verdict room for its name only."""
    end = 65528
    match = patched(entry[head : head + 48], 0, end - 32 - head)
    verdict = patched(bytes(32), 0, 32)[:2] + b"DROP".ljust(30, b"\0")
    whole = entry[:head] + match.ljust(end - 32 - head, b"\0") + verdict
    return patched(patched(whole, offsets(head), end - 32), offsets(head) + 2, end)


@FAMILIES
@pytest.mark.parametrize("spoil", NO_RULES.values(), ids=NO_RULES)
def test_bytes_that_are_no_rule_are_refused(
    namespace: Namespace, family: Family, spoil: Callable[[bytes, int], bytes]
) -> None:
    """By whatever call they come: InvalidRuleError says so, and the table stays as it is."""
    good = Rule.parse("-p tcp -m tcp --dport 22 -j DROP", family)
    bad = Rule(family, spoil(good.entry, 112 if family is Family.IPV4 else 168))
    calls: list[Callable[[nfkeep.Transaction], None]] = [
        lambda tx: tx.append("INPUT", bad),
        lambda tx: tx.insert("INPUT", bad),
        lambda tx: tx.replace("INPUT", 1, bad),
        lambda tx: tx.delete("INPUT", bad),
        lambda tx: tx.handle.append("INPUT", bad),
        lambda tx: tx.handle.rewrite("INPUT", 1, bad),
    ]
    with namespace:
        with nfkeep.transaction("filter", family) as tx:
            tx.append("INPUT", good)
        before = saved(namespace, family)
        for call in calls:
            with pytest.raises(InvalidRuleError, match="are not a rule"), nfkeep.transaction("filter", family) as tx:
                call(tx)
    assert saved(namespace, family) == before


def test_nat_does_not_drop(namespace: Namespace) -> None:
    """As with iptables: a rule of that table sees only the first packet of each connection."""
    with (
        namespace,
        pytest.raises(InvalidRuleError, match="the use of DROP is inhibited"),
        nfkeep.transaction("nat") as tx,
    ):
        tx.append("PREROUTING", "-j DROP")


def test_a_rule_goes_by_any_text_that_means_it(namespace: Namespace) -> None:
    """Written short or as iptables-save prints it, although their bytes differ in what IPv4 does not use."""
    namespace.run("iptables-legacy -A INPUT -m connlimit --connlimit-above 11 -j DROP")
    namespace.run("iptables-legacy -A INPUT -m connlimit --connlimit-above 10 -j DROP")
    with namespace:
        with nfkeep.transaction() as tx:
            tx.delete("INPUT", "-m connlimit --connlimit-above 10 --connlimit-mask 32 --connlimit-saddr -j DROP")
        (left,) = nfkeep.read("filter").chains["INPUT"].rules
    assert left == Rule.parse("-m connlimit --connlimit-above 11 -j DROP")


def test_no_such_table(namespace: Namespace) -> None:
    """A table that the kernel cannot have is named in the error."""
    with namespace:
        with pytest.raises(InvalidRuleError, match="no table 'fliter'"):
            nfkeep.transaction("fliter")
        with pytest.raises(InvalidRuleError, match="no table 'fliter'"):
            nfkeep.read("fliter")


def test_what_the_kernel_refuses_is_not_live(namespace: Namespace) -> None:
    """A rule that only the kernel finds fault with raises CommitError(applied=False)."""
    before = saved(namespace)
    with namespace, pytest.raises(CommitError) as caught, nfkeep.transaction() as tx:
        tx.append("INPUT", "-j MASQUERADE")  # only in nat
    assert caught.value.applied is False
    assert saved(namespace) == before


def test_a_chain_named_like_an_extension_wins(namespace: Namespace) -> None:
    """As with iptables, `-j LOG` goes to the chain LOG where there is one."""
    with namespace, nfkeep.transaction() as tx:
        tx.new_chain("LOG")
        tx.append("INPUT", "-j LOG")
    assert "-A INPUT -j LOG" in saved(namespace)
    with namespace, nfkeep.transaction() as tx:
        tx.delete("INPUT", nfkeep.read("filter").chains["INPUT"].rules[0])
    assert "-A INPUT -j LOG" not in saved(namespace)


def test_waits_for_the_lock_and_gives_up_in_time(namespace: Namespace) -> None:
    """While somebody holds the xtables lock a transaction waits; past its timeout it raises LockTimeoutError."""
    with open(os.environ["XTABLES_LOCKFILE"], "a") as holder, namespace:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(LockTimeoutError) as caught, nfkeep.transaction(lock_timeout=0.05):
            pass
        assert caught.value.path == os.environ["XTABLES_LOCKFILE"]
        fcntl.flock(holder, fcntl.LOCK_UN)
        with nfkeep.transaction(lock_timeout=5):
            pass


def test_others_wait_for_our_lock(namespace: Namespace) -> None:
    """iptables is turned away while a transaction is open, or waits, and then its rule is not lost."""
    with namespace:
        with nfkeep.transaction() as tx:
            tx.append("INPUT", "-s 192.0.2.1 -j DROP")
            refused = namespace.run("iptables-legacy -w 1 -A INPUT -s 192.0.2.2 -j DROP", check=False)
            waiting = namespace.popen("iptables-legacy -A INPUT -s 192.0.2.3 -j DROP")
        assert waiting.wait(10) == 0
    assert refused.returncode == 4
    assert saved(namespace)[3:] == ["-A INPUT -s 192.0.2.1/32 -j DROP", "-A INPUT -s 192.0.2.3/32 -j DROP"]


@pytest.mark.parametrize("meanwhile", ["-A INPUT -s 192.0.2.9 -j DROP", "-R INPUT 1 -s 192.0.2.9 -j DROP"])
def test_a_writer_that_ignores_the_lock_is_noticed(namespace: Namespace, tmp_path: Path, meanwhile: str) -> None:
    """A table changed by such a writer, in size or in content, raises ConflictError and keeps the other's change."""
    namespace.run("iptables-legacy -A INPUT -s 192.0.2.1 -j DROP")
    elsewhere = {**os.environ, "XTABLES_LOCKFILE": str(tmp_path / "other.lock")}

    def change() -> None:
        with nfkeep.transaction() as tx:
            tx.append("INPUT", "-s 192.0.2.5 -j DROP")
            namespace.run(f"iptables-legacy {meanwhile}", env=elsewhere)

    with namespace, pytest.raises(ConflictError) as caught:
        change()
    assert caught.value.table == "filter"
    rules = saved(namespace)
    assert "-A INPUT -s 192.0.2.9/32 -j DROP" in rules
    assert "-A INPUT -s 192.0.2.5/32 -j DROP" not in rules


def test_a_failure_between_the_two_calls_says_that_the_rules_are_live(namespace: Namespace) -> None:
    """libiptc replaces the table and then adds the counters: if only the second fails, applied is True."""
    namespace.run("iptables-legacy -A INPUT -s 192.0.2.1 -c 7 70 -j DROP")

    def act() -> str:
        forbid(SETSOCKOPT, {1: 0, 2: 65}, errno.ENOMEM)  # IPPROTO_IP, IPT_SO_SET_ADD_COUNTERS
        try:
            with nfkeep.transaction() as tx:
                tx.append("INPUT", "-s 192.0.2.2 -j DROP")
        except CommitError as error:
            return f"{error.applied} {error}"
        return "no error"

    text = in_child(namespace, act)
    assert text.startswith("True the new rules of table filter are live")
    assert "-A INPUT -s 192.0.2.2/32 -j DROP" in saved(namespace)


def test_a_plain_user_is_told_what_is_needed(namespace: Namespace) -> None:
    """Without rights both reading and changing raise PermissionDeniedError, which names the capability."""
    said = as_nobody(namespace, ["read", "transaction"])
    assert said == ["PermissionDeniedError CAP_NET_ADMIN"] * 2


def as_nobody(namespace: Namespace, calls: list[str]) -> list[str]:
    _ = nfkeep.transaction, nfkeep.read  # loaded while the files can still be read

    def act() -> str:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        lines = []
        for call in calls:
            try:
                if call == "read":
                    nfkeep.read("filter")
                else:
                    with nfkeep.transaction():
                        pass
                lines.append("no error")
            except PermissionDeniedError as error:
                lines.append(f"PermissionDeniedError {'CAP_NET_ADMIN' if 'CAP_NET_ADMIN' in str(error) else ''}")
        return "\n".join(lines)

    return in_child(namespace, act).splitlines()


@pytest.mark.parametrize("on_loss", ["report", "refuse"])
def test_without_ctnetlink_the_count_is_lost_or_the_change_refused(namespace: Namespace, on_loss: str) -> None:
    """Where nothing can have flows counted again the rules still change, and the report says what that costs."""
    namespace.run("iptables-legacy -A INPUT -p tcp --syn -m connlimit --connlimit-above 3 -j DROP")
    before = saved(namespace)

    def act() -> str:
        forbid(SOCKET, {0: 16, 2: 12}, errno.EPROTONOSUPPORT)  # AF_NETLINK, NETLINK_NETFILTER
        try:
            with nfkeep.transaction(on_loss=on_loss) as tx:
                tx.append("INPUT", "-s 192.0.2.2 -j DROP")
        except StateLossError as error:
            return f"refused {error.outcomes[0].fidelity}"
        return f"{tx.report.outcomes[0].fidelity} {tx.report.outcomes[0].detail}"

    text = in_child(namespace, act)
    if on_loss == "refuse":
        assert text == "refused lost"
        assert saved(namespace) == before
    else:
        assert text.startswith("lost ")
        assert len(text) > len("lost ")
        assert saved(namespace) == [*before, "-A INPUT -s 192.0.2.2/32 -j DROP"]


def in_child(namespace: Namespace, act: Callable[[], str]) -> str:
    """What `act` says in a forked process inside the namespace."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            namespace.enter()
            os.write(writer, act().encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as said:
        return said.read()


def test_unknown_extensions_keep_their_bytes(namespace: Namespace, tmp_path: Path) -> None:
    """A rule whose extension nobody here can decode goes through a change byte for byte, and still prints."""
    namespace.run("iptables-legacy -t mangle -A PREROUTING -p tcp -m ttl --ttl-lt 5 -j TTL --ttl-inc 1")
    code = (
        "import nfkeep\n"
        "before = nfkeep.read('mangle').chains['PREROUTING'].rules[0]\n"
        "print(str(before))\n"
        "with nfkeep.transaction('mangle') as tx:\n"
        "    tx.delete('PREROUTING', before)\n"
        "    tx.append('PREROUTING', before)\n"
        "assert nfkeep.read('mangle').chains['PREROUTING'].rules == (before,)\n"
    )
    # libxtables looks for extensions where XTABLES_LIBDIR says: in an empty folder none is known.
    done = subprocess.run(
        [*_python(), code], capture_output=True, text=True, check=False,
        env={**os.environ, "XTABLES_LIBDIR": str(tmp_path)},
        preexec_fn=lambda: namespace.enter() and None,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "unsupported" in done.stdout
    assert namespace.run("iptables-legacy -t mangle -S PREROUTING").stdout.splitlines()[1:] == [
        "-A PREROUTING -p tcp -m ttl --ttl-lt 5 -j TTL --ttl-inc 1"
    ]


def _python() -> list[str]:
    import sys

    return [sys.executable, "-c"]


def test_references_of_ipset_come_through(namespace: Namespace) -> None:
    """A set that a rule names keeps its elements and one reference through many replaces; none when the rule goes."""
    rule = "-m set --match-set kept src -j DROP"
    namespace.run("ipset create kept hash:ip")
    namespace.run("ipset add kept 192.0.2.7")
    with namespace:
        for text in (rule, *("-s 192.0.2.1 -j DROP",) * 100):
            with nfkeep.transaction() as tx:
                tx.append("INPUT", text)
        listed = namespace.run("ipset list kept").stdout
        assert "References: 1\n" in listed
        assert "192.0.2.7" in listed
        with nfkeep.transaction() as tx:
            tx.delete("INPUT", rule)
    namespace.run("ipset destroy kept")
