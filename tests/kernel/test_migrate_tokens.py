"""Keys of hashlimit through a move: each has as many tokens in nft as it had in iptables, and nobody sees how."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import attrs
import pytest

from nfkeep import Family, NfkeepError
from nfkeep.keep.report import Fidelity
from nfkeep.migrate.live import cutover, tokens
from nfkeep.migrate.live.host import read_host
from nfkeep.migrate.live.plan import make_plan
from nfkeep.namespaces import Namespace
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.ruleset import Limit
from nfkeep.nft.tokens import Drain, LimitedSet
from nfkeep.testing import wait_until
from nfkeep.xtables.hashlimit import read_buckets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nfkeep.keep.report import Report

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300), pytest.mark.usefixtures("own_directories")]

HASHLIMIT = "-m hashlimit --hashlimit-name x"
MOST = 60
EARLIEST = """table inet own {
chain o { type filter hook output priority -2147483648; meta l4proto 253 drop
}
}
"""
OCTETS = 111  # of a packet: as iptables counts them, by 16 and one more, it is all but as long as it is
_HEADERS = {Family.IPV4: 28, Family.IPV6: 48}

KILLED = """
import os, signal
from nfkeep.cli.migrate import main
from nfkeep.nft.tokens import Drain
Drain.take = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main(["apply"])
"""

Key = tuple[str, str, int]
"""Source, target and port of packets."""


def above(options: str) -> list[str]:
    return [f"{HASHLIMIT} --hashlimit-above 1/hour --hashlimit-burst 10 {options} -j DROP"]


def upto(options: str) -> list[str]:
    return [f"{HASHLIMIT} --hashlimit-upto 1/hour --hashlimit-burst 10 {options} -j RETURN", "-j DROP"]


BY_SOURCE = [(f"127.0.0.{n}", "127.0.0.1", 9) for n in range(1, 13)]
BY_PORT = [("127.0.0.1", "127.0.0.1", port) for port in range(1, 13)]
BY_TARGET = [("127.0.0.1", f"127.0.1.{n}", 9) for n in range(1, 13)]
NETWORKS = [(f"127.{n}.0.{n}", f"127.0.{n}.1", 9) for n in range(1, 13)]
OTHERS = [(f"127.0.0.{n}", f"127.0.1.{n % 2 + 1}", n) for n in range(1, 13)]
BY_SOURCE6 = [(f"fd00::{n}", "fd00::1", 9) for n in range(1, 13)]
NETWORKS6 = [(f"fd00:0:0:{n}::1", f"fd00::{n}", n) for n in range(1, 13)]

V4 = {
    "source, above": (above("--hashlimit-mode srcip"), BY_SOURCE),
    "source, up to": (upto("--hashlimit-mode srcip"), BY_SOURCE),
    "source and port": (above("--hashlimit-mode srcip,dstport"), BY_PORT),
    "target": (upto("--hashlimit-mode dstip"), BY_TARGET),
    "all four": (above("--hashlimit-mode srcip,srcport,dstip,dstport"), OTHERS),
    "networks": (above("--hashlimit-mode srcip,dstip --hashlimit-srcmask 16 --hashlimit-dstmask 24"), NETWORKS),
    "a mask of nothing": (above("--hashlimit-mode srcip,dstip --hashlimit-dstmask 0"), OTHERS),
    "one bucket": (above(""), BY_SOURCE[2:3]),
    "asked above and up to": (
        [*above("--hashlimit-mode srcip --hashlimit-htable-expire 90000"),
         f"{HASHLIMIT} --hashlimit-upto 1/hour --hashlimit-burst 10 --hashlimit-mode srcip"
         " --hashlimit-htable-expire 90000 -j RETURN", "-j DROP"],
        BY_SOURCE,
    ),
}  # fmt: skip
V6 = {
    "source, above": (above("--hashlimit-mode srcip"), BY_SOURCE6),
    "source, up to": (upto("--hashlimit-mode srcip"), BY_SOURCE6),
    "all four": (above("--hashlimit-mode srcip,srcport,dstip,dstport"), NETWORKS6),
    "networks and ports": (upto("--hashlimit-mode srcip,dstport --hashlimit-srcmask 64"), NETWORKS6),
}
CASES = {f"{family}: {name}": (family, *case) for family, cases in ((Family.IPV4, V4), (Family.IPV6, V6))
         for name, case in cases.items()}  # fmt: skip


@attrs.frozen
class Sender:
    """A namespace with rules of legacy iptables in OUTPUT, that sends to itself: what is dropped cannot be sent."""

    namespace: Namespace
    family: Family

    def load(self, rules: list[str]) -> None:
        command = "ip6tables-legacy" if self.family is Family.IPV6 else "iptables-legacy"
        for rule in rules:
            self.namespace.run(f"{command} -A OUTPUT -p udp {rule}")

    def add(self, addresses: set[str]) -> None:
        """Have IPv6 addresses; of IPv4 all of 127.0.0.0/8 are there."""
        for each in addresses:
            if ":" in each:
                self.namespace.run(f"ip -6 address add {each}/128 dev lo nodad")

    def send(self, key: Key, most: int) -> int:
        """How many of so many packets can be sent, until the first that cannot."""
        source, target, port = key
        with self.namespace:
            opened = socket.socket(self.family.value, socket.SOCK_DGRAM)
        with opened:
            opened.bind((source, 7000))
            for number in range(most):
                try:
                    opened.sendto(bytes(OCTETS - _HEADERS[self.family]), (target, port))
                except PermissionError:
                    return number
        return most

    def apply(self) -> Report:
        with self.namespace:
            return cutover.apply(make_plan(read_host()), lambda _: None)

    def rollback(self) -> Report:
        with self.namespace:
            return cutover.rollback()

    def told(self, report: Report) -> list[tuple[str, Fidelity, str]]:
        """What a report says of keys."""
        return [(o.where, o.fidelity, o.detail) for o in report.outcomes if o.kind == "hashlimit"]


@pytest.fixture
def sender() -> Iterator[Callable[..., Sender]]:
    """Make namespaces that are loaded with rules."""
    made: list[Namespace] = []

    def make(family: Family, rules: list[str], keys: list[Key]) -> Sender:
        made.append(Namespace())
        one = Sender(made[-1], family)
        one.add({address for source, target, _ in keys for address in (source, target)})
        one.load(rules)
        return one

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize(("family", "rules", "keys"), CASES.values(), ids=CASES)
def test_as_many_pass_as_would_have(
    sender: Callable[..., Sender], family: Family, rules: list[str], keys: list[Key]
) -> None:
    """Buckets from full to empty: behind the move as many packets pass at once as without it, or one less."""
    moved, same = sender(family, rules, keys), sender(family, rules, keys)
    for number, key in enumerate(keys):
        assert moved.send(key, number) == same.send(key, number)
    told = moved.told(moved.apply())
    pairs = [(same.send(key, MOST), moved.send(key, MOST)) for key in keys]
    wrong = [(key, pair) for key, pair in zip(keys, pairs, strict=True) if not -1 <= pair[1] - pair[0] <= 0]
    assert (wrong, [fidelity for _, fidelity, _ in told]) == ([], [Fidelity.RESTORED]), pairs
    assert max(pair[0] for pair in pairs) > min(pair[0] for pair in pairs) or len(keys) < 3
    assert "nfkeep" not in moved.namespace.run("nft list ruleset").stdout


@pytest.mark.parametrize("family", Family, ids=str)
@pytest.mark.parametrize("way", ["above", "upto"])
def test_as_many_bytes(sender: Callable[..., Sender], family: Family, way: str) -> None:
    """The same for buckets of bytes, of two hundred packets, but for what came since: a packet in a second."""
    keys = BY_SOURCE6 if family is Family.IPV6 else BY_SOURCE
    rest = ["-j DROP"] if way == "upto" else []
    rules = [
        f"{HASHLIMIT} --hashlimit-{way} 100b/s --hashlimit-burst 20kb --hashlimit-mode srcip"
        f" -j {'RETURN' if rest else 'DROP'}",
        *rest,
    ]
    moved, same = sender(family, rules, keys), sender(family, rules, keys)
    for number, key in enumerate(keys):
        assert moved.send(key, 15 * number) == same.send(key, 15 * number)
    begun = time.monotonic()
    told = moved.told(moved.apply())
    pairs = [(same.send(key, 1000), moved.send(key, 1000)) for key in keys]
    most = 1 + (time.monotonic() - begun)
    wrong = [
        (key, pair)
        for key, pair in zip(keys, pairs, strict=True)
        if abs(pair[1] - pair[0]) > most + pair[0] / OCTETS  # iptables takes each for a byte longer
    ]
    assert (wrong, [fidelity for _, fidelity, _ in told]) == ([], [Fidelity.RESTORED]), (pairs, most)
    assert most < 100


def test_a_key_is_kept_for_as_long(sender: Callable[..., Sender]) -> None:
    """What is left of a key's time in iptables, to the second above, it has in nft, in both sets."""
    here = sender(Family.IPV4, above("--hashlimit-mode srcip --hashlimit-htable-expire 60000"), [])
    here.send(BY_SOURCE[4], 5)
    with here.namespace:
        assert wait_until(lambda: next(read_buckets("x", Family.IPV4))[1].seconds_left < 58)
    here.apply()
    listing = here.namespace.run("nft list ruleset").stdout
    left = [int(each.split("s")[0]) for each in listing.split("expires ")[1:]]
    assert (listing.count("127.0.0.5"), len(left)) == (2, 2), listing
    assert 40 < max(left) <= 58


def test_nobody_sees_how(sender: Callable[..., Sender]) -> None:
    """No rule, socket, interface or connection has anything of the packets that take the tokens."""
    here = sender(Family.IPV4, above("--hashlimit-mode srcip"), [])
    here.namespace.run("iptables-legacy -t raw -A OUTPUT -p 253 -j LOG")
    here.namespace.run("iptables-legacy -t raw -A PREROUTING -p 253 -j LOG")
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority -500; meta l4proto 253 counter\n}}\n"
        for hook in ("output", "postrouting", "prerouting", "input")
    )
    here.namespace.run(["nft", "-f", "-"], input=f"table inet own {{\n{chains}}}\n")
    for key in BY_SOURCE:
        here.send(key, 5)
    with here.namespace:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        peer = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)
    with wire, peer:
        here.apply()
        seen = []
        for each in (wire, peer):
            with contextlib.suppress(BlockingIOError):
                while True:
                    seen.append(each.recv(100, socket.MSG_DONTWAIT))
    assert [packet for packet in seen if packet[9:10] == b"\xfd"] == []
    assert here.namespace.run("nft list table inet own").stdout.count("packets 0 bytes 0") == 4
    assert here.namespace.run("iptables-legacy-save -c -t raw").stdout.count("[0:0] -A") >= 2
    assert [here.send(key, MOST) for key in BY_SOURCE] == [5] * 12


def test_traffic_goes_on(sender: Callable[..., Sender]) -> None:
    """Of a burst that is being used up while the host moves, no more passes than there is, and hardly less."""
    here = sender(Family.IPV4, [f"{HASHLIMIT} --hashlimit-above 1/min --hashlimit-burst 400 --hashlimit-mode srcip"
                                " --hashlimit-htable-expire 600000 -j DROP"], [])  # fmt: skip
    stop, passed = threading.Event(), []

    def go_on() -> None:
        while not stop.wait(0.005):
            passed.append(here.send(BY_SOURCE[0], 1))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        here.apply()
    finally:
        stop.set()
        thread.join()
    before = sum(passed)
    total = before + here.send(BY_SOURCE[0], 1000)
    assert (397 <= total <= 400, 0 < before < 400, all(passed)) == (True, True, True), (before, total)


def test_keys_without_a_loopback(sender: Callable[..., Sender]) -> None:
    """Where no packet can be sent, the keys begin full, and the report says why; the move is done all the same."""
    here = sender(Family.IPV6, above("--hashlimit-mode srcip"), BY_SOURCE6[:2])
    here.send(BY_SOURCE6[1], 5)
    here.namespace.run("ip -6 address del ::1/128 dev lo")
    [(where, fidelity, detail)] = here.told(here.apply())
    assert (where, fidelity) == ("IPv6, keys of x", Fidelity.APPROXIMATED)
    assert "begin full" in detail
    assert "::1" in detail
    assert "nfkeep" not in here.namespace.run("nft list ruleset").stdout


def test_more_than_anybody_waits_for(sender: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where time is up, the report tells how many keys had their turn; the others begin full."""
    monkeypatch.setattr(tokens, "PATIENCE_SECONDS", -1.0)
    here = sender(Family.IPV4, above("--hashlimit-mode srcip"), [])
    here.send(BY_SOURCE[0], 5)
    [(_, fidelity, detail)] = here.told(here.apply())
    assert (fidelity, "only 0 of 1 keys" in detail) == (Fidelity.APPROXIMATED, True), detail
    assert here.send(BY_SOURCE[0], MOST) == 10


def test_nobody_is_before_us(sender: Callable[..., Sender]) -> None:
    """A chain that is as early as can be, and drops all packets of the kind, does not keep ours from their place."""
    here = sender(Family.IPV4, above("--hashlimit-mode srcip"), [])
    here.send(BY_SOURCE[0], 5)
    here.namespace.run(["nft", "-f", "-"], input=EARLIEST)
    [(_, fidelity, _)] = here.told(here.apply())
    assert (fidelity, here.send(BY_SOURCE[0], MOST)) == (Fidelity.RESTORED, 5)


def test_packets_that_do_not_come(namespace: Namespace) -> None:
    """Where others drop the packets, as they came before us in the meantime, it is told that no tokens were taken."""
    sets = "table ip t {\nset s { type ipv4_addr; size 10; flags dynamic,timeout; timeout 1m;\n}\n}\n"
    namespace.run(["nft", "-f", "-"], input=sets)
    limited = LimitedSet(Family.IPV4, "t", "s", 60_000, Limit(1, 60, 5))
    with namespace:
        opened = BatchSocket()
        with Drain(opened, limited, {}, key_bytes=4) as drain:
            drain.take(bytes([127, 0, 0, 1]), 3)
            drain.check()
            namespace.run(["nft", "-f", "-"], input=EARLIEST)
            drain.take(bytes([127, 0, 0, 2]), 3)
            with pytest.raises(NfkeepError, match="1 of 2"):
                drain.check()
        opened.close()
    listing = namespace.run("nft list table ip t").stdout
    assert ("127.0.0.1" in listing, "127.0.0.2" in listing, "chain" in listing) == (True, False, False)


def test_a_chain_in_the_way(sender: Callable[..., Sender]) -> None:
    """Nothing is changed where a chain of iptables has the name of one of ours, and the report says so."""
    here = sender(Family.IPV4, above("--hashlimit-mode srcip"), [])
    here.namespace.run("iptables-legacy -N nfkeep-tokens-1")
    here.send(BY_SOURCE[0], 5)
    [(_, fidelity, detail)] = here.told(here.apply())
    assert (fidelity, "nfkeep-tokens-1" in detail) == (Fidelity.APPROXIMATED, True), detail
    assert here.send(BY_SOURCE[0], MOST) == 10


def test_rules_that_nft_has_not(sender: Callable[..., Sender]) -> None:
    """Keys of rules that are lost are lost, and so it is said before."""
    here = sender(
        Family.IPV4, [f"{HASHLIMIT} --hashlimit-above 5/sec --hashlimit-mode srcip --hashlimit-rate-match"], []
    )
    with here.namespace:
        plan = make_plan(read_host())
        report = cutover.apply(plan, lambda _: None)
    expected = [("IPv4, keys of x", Fidelity.LOST, "nft has none of its rules")]
    planned = [(o.where, o.fidelity, o.detail) for o in plan.outcomes if o.kind == "hashlimit"]
    assert (planned, here.told(report)) == (expected, expected)


def test_many_tables(sender: Callable[..., Sender]) -> None:
    """Tables of several names, of both families and of rules in several tables, are each brought to their level."""
    one = "--hashlimit-above 1/hour --hashlimit-burst 10 --hashlimit-mode srcip"
    here = sender(Family.IPV4, above("--hashlimit-mode srcip"), BY_SOURCE6[:1])
    here.namespace.run(f"iptables-legacy -A OUTPUT -p udp -m hashlimit --hashlimit-name y.1 {one} -j DROP")
    here.namespace.run(f"iptables-legacy -t mangle -A OUTPUT -p tcp {HASHLIMIT} {one} -j DROP")
    six = attrs.evolve(here, family=Family.IPV6)
    six.load(above("--hashlimit-mode srcip"))
    assert (here.send(BY_SOURCE[0], 3), six.send(BY_SOURCE6[0], 4)) == (3, 4)
    told = here.told(here.apply())
    assert [(where, fidelity) for where, fidelity, _ in told] == [
        ("IPv4, keys of x", Fidelity.RESTORED),
        ("IPv4, keys of y.1", Fidelity.RESTORED),
        ("IPv6, keys of x", Fidelity.RESTORED),
    ]
    assert (here.send(BY_SOURCE[0], MOST), six.send(BY_SOURCE6[0], MOST)) == (7, 6)


def test_killed_in_the_middle(sender: Callable[..., Sender]) -> None:
    """What is left of our chains when the process is killed changes no verdict, and goes with a rollback."""
    here = sender(Family.IPV4, above("--hashlimit-mode srcip"), [])
    for key in BY_SOURCE:
        here.send(key, 5)
    died = here.namespace.run([sys.executable, "-c", KILLED], check=False, env=dict(os.environ))
    assert (died.returncode, "nfkeep-tokens" in here.namespace.run("nft list ruleset").stdout) == (-9, True)
    assert [here.send(key, MOST) for key in BY_SOURCE] == [5] * 12
    here.rollback()
    assert here.namespace.run("nft list ruleset").stdout == ""
    assert here.send(("127.0.0.20", "127.0.0.1", 9), MOST) == 10


def test_the_way_back(sender: Callable[..., Sender]) -> None:
    """iptables has the level from before the move again: nobody can read what nft has let pass since."""
    here = sender(Family.IPV4, above("--hashlimit-mode srcip"), [])
    assert here.send(BY_SOURCE[0], 4) == 4
    here.apply()
    assert here.send(BY_SOURCE[0], 2) == 2
    here.rollback()
    assert here.send(BY_SOURCE[0], MOST) == 6


def test_full_after_a_confirmed_move_is_undone(sender: Callable[..., Sender]) -> None:
    """The kernel lets nobody write into a table of hashlimit: that they begin full is told."""
    key = BY_SOURCE[0]
    moved = sender(
        Family.IPV4, [f"{HASHLIMIT} --hashlimit-upto 10/hour --hashlimit-burst 9 -j RETURN", "-j DROP"], [key]
    )
    assert moved.send(key, 5) == 5
    moved.apply()
    with moved.namespace:
        cutover.confirm()
    told = moved.told(moved.rollback())
    assert told == [("IPv4 x", Fidelity.LOST, "its rules were gone, so that every key begins full")]
    assert moved.send(key, MOST) == 9
