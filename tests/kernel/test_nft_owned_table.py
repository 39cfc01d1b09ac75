"""The guard table over raw nfnetlink: what the kernel has then is what libnftables makes of the same guard as text."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import attrs
import nftables
import pytest
from guard_text import guard_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rounds import rounds

from nfkeep import Family
from nfkeep.conntrack import Condition, Selector
from nfkeep.conntrack.identity import payload
from nfkeep.errors import PermissionDeniedError, UnsupportedError
from nfkeep.keep.guard import RESETS, SHUT, arrived, guard_ruleset
from nfkeep.model import Hook
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.encode import delete_table, make_table
from nfkeep.nft.owned_table import OwnedTable
from nfkeep.nft.ruleset import BaseChain, Compare, Lookup, Meta, MetaKey, Relation, Ruleset, TimedSet, Verdict
from nfkeep.testing import add_address, pair, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

HOOKS = {Hook.INPUT: 0, Hook.FORWARD: 0, Hook.OUTPUT: 0}
NONCES = {Hook.INPUT: 11, Hook.FORWARD: 22, Hook.OUTPUT: 33}
MANGLE = dict.fromkeys(Hook, -150)
RAW = {Hook.PREROUTING: -300, Hook.OUTPUT: -300}

ALL = frozenset(range(65536))
_PORTS = re.compile(r"\b(tcp|udp) (sport|dport) (!= )?(\{[^}]*\}|[0-9-]+) ")
_PROTOCOL = re.compile(r"meta l4proto (tcp|udp) ")


def guard(*selectors: Selector, family: Family = Family.IPV4, seconds: float = 30) -> Ruleset:
    return guard_ruleset(family, selectors, HOOKS, NONCES, open_again_seconds=seconds)


def listed(namespace: Namespace, name: str) -> list[str]:
    """The table as nft prints it, without its name and times, its ports said in one way, counters first."""
    text = namespace.run(f"nft list table inet {name}").stdout.replace(name, "NAME")
    text = re.sub(r"expires \w+", "expires", text)
    return [_one_way(line.strip()) for line in text.splitlines()]


def _one_way(line: str) -> str:
    """A rule with all its conditions on one port as one set; it may be said by a set, by a range, or by its gaps."""
    allowed: dict[str, frozenset[int]] = {}
    protocols = set(_PROTOCOL.findall(line))
    for protocol, field, inverted, ranges in _PORTS.findall(line):
        protocols.add(protocol)
        ports = frozenset(
            port
            for part in ranges.strip("{} ").split(",")
            for low, _, high in [part.strip().partition("-")]
            for port in range(int(low), int(high or low) + 1)
        )
        allowed[field] = allowed.get(field, ALL) & (ALL - ports if inverted else ports)
    told = [f"{field} {_as_text(ports)}" for field, ports in sorted(allowed.items()) if ports != ALL]
    if "tcp flags" in line:
        protocols.discard("tcp")  # goes without saying
    return " ".join([_PORTS.sub("", _PROTOCOL.sub("", line)), *sorted(protocols), *told])


def _as_text(ports: frozenset[int]) -> str:
    starts = sorted(port for port in ports if port - 1 not in ports)
    ends = sorted(port for port in ports if port + 1 not in ports)
    return ", ".join(f"{low}-{high}" for low, high in zip(starts, ends, strict=True))


def both(
    namespace: Namespace, family: Family, selectors: tuple[Selector, ...], hooks: dict[Hook, int]
) -> tuple[list[str], list[str]]:
    """The same guard over nfnetlink and by libnftables, as the kernel then lists them."""
    nonces = {hook: 100 + hook for hook in hooks}
    with namespace:
        with OwnedTable(guard_ruleset(family, selectors, hooks, nonces, open_again_seconds=30)) as raw:
            ours = listed(namespace, raw.name)
        body = guard_table(family, selectors, hooks, nonces, open_again_seconds=30)
        text = nftables.Nftables()
        assert text.cmd(f"table inet by-text {{\nflags owner\n{body}}}\n")[0] == 0
        theirs = listed(namespace, "by-text")
        assert text.cmd("delete table inet by-text")[0] == 0
    return ours, theirs


def v4(*parts: int) -> bytes:
    return bytes(parts)


FULL = b"\xff" * 4
NET6 = bytes.fromhex("fd09") + bytes(14)

CASES: dict[str, tuple[Family, tuple[Selector, ...], dict[Hook, int]]] = {
    "nothing": (Family.IPV4, (), HOOKS),
    "anything": (Family.IPV4, (Selector(Hook.INPUT),), HOOKS),
    "tcp": (Family.IPV4, (Selector(Hook.INPUT, (Condition(protocol=6),)),), HOOKS),
    "udp, IPv6": (Family.IPV6, (Selector(Hook.INPUT, (Condition(protocol=17),)),), HOOKS),
    "not tcp": (Family.IPV4, (Selector(Hook.OUTPUT, (Condition(protocol=6, protocol_inverted=True),)),), HOOKS),
    "neither": (Family.IPV4, (Selector(Hook.OUTPUT, (Condition(protocol=1),)),), HOOKS),
    "a host": (Family.IPV4, (Selector(Hook.INPUT, (Condition(source=v4(10, 0, 0, 1), source_mask=FULL),)),), HOOKS),
    "a network": (
        Family.IPV4,
        (Selector(Hook.INPUT, (Condition(destination=v4(10, 1, 0, 0), destination_mask=v4(255, 255, 0, 0)),)),),
        HOOKS,
    ),
    "not a network, with holes": (
        Family.IPV4,
        (
            Selector(
                Hook.INPUT,
                (Condition(source=v4(10, 0, 9, 0), source_mask=v4(255, 0, 255, 0), source_inverted=True),),
            ),
        ),
        HOOKS,
    ),
    "an IPv6 network, not an IPv6 host": (
        Family.IPV6,
        (
            Selector(
                Hook.FORWARD,
                (
                    Condition(
                        source=NET6, source_mask=b"\xff" * 8 + bytes(8),
                        destination=NET6[:15] + b"\1", destination_mask=b"\xff" * 16, destination_inverted=True,
                    ),
                ),
            ),
        ),
        HOOKS,
    ),
    "an interface": (
        Family.IPV4,
        (Selector(Hook.INPUT, (Condition(in_interface=b"eth0", in_interface_mask=b"\xff" * 5),)),),
        HOOKS,
    ),
    "the longest interface": (
        Family.IPV4,
        (Selector(Hook.OUTPUT, (Condition(out_interface=b"abcdefghijklmno", out_interface_mask=b"\xff" * 16),)),),
        HOOKS,
    ),
    "interfaces that begin so, and not so": (
        Family.IPV4,
        (
            Selector(
                Hook.FORWARD,
                (
                    Condition(
                        in_interface=b"wg", in_interface_mask=b"\xff" * 2,
                        out_interface=b"eth", out_interface_mask=b"\xff" * 3, out_interface_inverted=True,
                    ),
                ),
            ),
        ),
        HOOKS,
    ),
    "a port": (Family.IPV4, (Selector(Hook.INPUT, (Condition(protocol=6, destination_ports=((80, 80),)),)),), HOOKS),
    "several ports of both": (
        Family.IPV4,
        (
            Selector(
                Hook.INPUT,
                (
                    Condition(
                        destination_ports=((80, 80), (443, 445), (90, 100), (65535, 65535)), source_ports=((1, 9),)
                    ),
                ),
            ),
        ),
        HOOKS,
    ),
    "none of several ports": (
        Family.IPV4,
        (
            Selector(
                Hook.INPUT,
                (
                    Condition(
                        destination_ports=((0, 5), (22, 22)), destination_ports_inverted=True,
                        source_ports=((7, 7),), source_ports_inverted=True,
                    ),
                ),
            ),
        ),
        HOOKS,
    ),
    "either port": (Family.IPV4, (Selector(Hook.INPUT, (Condition(protocol=6, either_ports=((80, 80),)),)),), HOOKS),
    "a rule behind two jumps": (
        Family.IPV4,
        (
            Selector(
                Hook.FORWARD,
                (
                    Condition(source=v4(10, 0, 0, 0), source_mask=v4(255, 0, 0, 0)),
                    Condition(protocol=6, destination_ports=((80, 90),)),
                    Condition(destination_ports=((85, 99), (1, 2))),
                ),
            ),
        ),
        HOOKS,
    ),
    "two rules at two hooks": (
        Family.IPV4,
        (
            Selector(Hook.INPUT, (Condition(protocol=17, destination_ports=((53, 53),)),)),
            Selector(Hook.OUTPUT, (Condition(protocol=17, destination_ports=((123, 123), (500, 500))),)),
        ),
        HOOKS,
    ),
    "mangle": (Family.IPV4, tuple(Selector(hook, (Condition(protocol=6),)) for hook in Hook), MANGLE),
    "raw": (Family.IPV6, (Selector(Hook.PREROUTING, (Condition(protocol=6),)),), RAW),
}  # fmt: skip


@pytest.mark.parametrize(("family", "selectors", "hooks"), CASES.values(), ids=CASES)
def test_is_what_libnftables_makes(
    namespace: Namespace, family: Family, selectors: tuple[Selector, ...], hooks: dict[Hook, int]
) -> None:
    """The kernel lists the same chains with the same rules in the same order."""
    ours, theirs = both(namespace, family, selectors, hooks)
    assert ours == theirs


def ranges() -> st.SearchStrategy[tuple[tuple[int, int], ...]]:
    port = st.one_of(st.integers(0, 65535), st.sampled_from([0, 1, 80, 81, 65534, 65535]))
    return st.lists(st.tuples(port, port).map(lambda p: (min(p), max(p))), max_size=4).map(tuple)


def condition(size: int, names: st.SearchStrategy[bytes]) -> st.SearchStrategy[Condition]:
    address = st.one_of(st.just(b""), st.binary(min_size=size, max_size=size))
    return st.builds(
        lambda address, mask, other, other_mask, name, length, **rest: Condition(
            source=address,
            source_mask=mask if address and mask else b"\xff" * len(address),
            destination=other,
            destination_mask=other_mask if other and other_mask else b"\xff" * len(other),
            in_interface=name,
            in_interface_mask=b"\xff" * length if name else b"",
            out_interface=name[::-1],
            out_interface_mask=b"\xff" * length if name else b"",
            **rest,
        ),
        address, address, address, address, names, st.integers(0, 16),
        protocol=st.sampled_from([0, 1, 6, 17, 255]),
        protocol_inverted=st.booleans(),
        source_inverted=st.booleans(),
        destination_inverted=st.booleans(),
        in_interface_inverted=st.booleans(),
        source_ports=ranges(),
        source_ports_inverted=st.booleans(),
        destination_ports=ranges(),
        destination_ports_inverted=st.booleans(),
        either_ports=ranges(),
    )  # fmt: skip


def selectors(names: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[Family, tuple[Selector, ...]]]:
    def of(family: Family) -> st.SearchStrategy[tuple[Family, tuple[Selector, ...]]]:
        conditions = st.lists(condition(4 if family is Family.IPV4 else 16, names), max_size=3).map(tuple)
        one = st.builds(Selector, st.sampled_from(list(HOOKS)), conditions, st.booleans(), st.booleans())
        return st.tuples(st.just(family), st.lists(one, max_size=3).map(tuple))

    return st.sampled_from(list(Family)).flatmap(of)


# Of 15 bytes only whole names: nft has no room for a star behind them.
PLAIN_NAMES = st.sampled_from([b"", b"eth0", b"wg-0.1@x", b"a", b"lo", b"abcdefghijklmn"])
HOSTILE_NAMES = st.one_of(st.binary(max_size=16), st.sampled_from([b'e"; drop', b"a b", b"*", b"\\", b"$x", b"\xff"]))


@given(selectors(PLAIN_NAMES))
@settings(max_examples=rounds(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_is_what_libnftables_makes_of_any_selectors(
    namespace: Namespace, given: tuple[Family, tuple[Selector, ...]]
) -> None:
    """Nor do random selectors find a difference."""
    ours, theirs = both(namespace, *given, HOOKS)
    assert ours == theirs


@given(selectors(HOSTILE_NAMES))
@settings(max_examples=rounds(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_kernel_takes_any_selectors(namespace: Namespace, given: tuple[Family, tuple[Selector, ...]]) -> None:
    """Any conditions, hostile interface names too, give one table and nothing beside it."""
    family, selectors = given
    with namespace, OwnedTable(guard(*selectors, family=family)) as table:
        assert namespace.run("nft list tables").stdout == f"table inet {table.name}\n"


def test_a_rule_that_would_be_too_long_holds_off_more(namespace: Namespace) -> None:
    """nf_tables_newrule() refuses a rule of 4096 bytes; what has no room in it is left out."""
    ports = tuple((port, port + 1) for port in range(1000, 1060, 4))
    inner = tuple(Condition(protocol=6, source_ports=ports, destination_ports=ports) for _ in range(8))
    with namespace, OwnedTable(guard(Selector(Hook.INPUT, inner))) as table:
        [rule] = [line for line in listed(namespace, table.name) if "@shut" in line and "counter" in line]
    assert "dport 1000-1001, 1004-1005" in rule
    assert "sport 1000-1001, 1004-1005" in rule


def test_thousands_of_selectors(namespace: Namespace) -> None:
    """A batch larger than a socket's buffer of 200 kB goes through as one transaction all the same."""
    many = tuple(
        Selector(Hook.INPUT, (Condition(protocol=6, source=v4(10, 0, i >> 8, i & 255), source_mask=FULL),))
        for i in range(3000)
    )
    with namespace, OwnedTable(guard(*many)) as table:
        rules = namespace.run(f"nft list chain inet {table.name} gate_input").stdout
        assert rules.count("@shut") == 3000


def test_nobody_else_can_flush_it(namespace: Namespace) -> None:
    """`nft flush ruleset` leaves the table, which only its owner deletes; closing twice does nothing."""
    with namespace:
        namespace.run("nft add table inet other")
        table = OwnedTable(guard(Selector(Hook.INPUT)))
        before = listed(namespace, table.name)
        namespace.run("nft flush ruleset")
        assert listed(namespace, table.name) == before
        table.close()
        table.close()
        assert namespace.run("nft list tables").stdout == ""


OWNER = """
import signal
from nfkeep import Family
from nfkeep.conntrack import Selector
from nfkeep.keep.guard import guard_ruleset
from nfkeep.model import Hook
from nfkeep.nft.owned_table import OwnedTable
hooks = {Hook.INPUT: 0}
table = OwnedTable(guard_ruleset(Family.IPV4, (Selector(Hook.INPUT),), hooks, {Hook.INPUT: 7}, open_again_seconds=30))
print(table.name, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_vanishes_with_its_process(namespace: Namespace, number: signal.Signals) -> None:
    """Even SIGKILL leaves no table behind."""
    process = namespace.popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert namespace.run("nft list tables").stdout == f"table inet {name}\n"
    process.send_signal(number)
    process.wait()
    assert wait_until(lambda: namespace.run("nft list tables").stdout == "")


def test_opens_by_itself(namespace: Namespace) -> None:
    """The elements of the set expire, however long the owner lives."""
    with namespace, OwnedTable(guard(seconds=0.3)) as table:
        shut = f"nft list set inet {table.name} {SHUT}"
        assert "elements" in namespace.run(shut).stdout
        assert wait_until(lambda: "elements" not in namespace.run(shut).stdout, timeout=2)


def test_a_set_is_filled_later(namespace: Namespace) -> None:
    """Made empty, the gate is open; filled, it is shut, and opens by itself after the time of the elements."""
    ruleset = guard(seconds=0.3)
    empty = attrs.evolve(ruleset, sets=(TimedSet(SHUT),))
    with namespace, OwnedTable(empty) as table:
        shut = f"nft list set inet {table.name} {SHUT}"
        assert "elements" not in namespace.run(shut).stdout
        table.fill_set(ruleset.sets[0])
        assert re.findall(r"(?:tcp|udp) timeout", namespace.run(shut).stdout) == ["tcp timeout", "udp timeout"]
        assert wait_until(lambda: "elements" not in namespace.run(shut).stdout, timeout=2)


def test_flushing_leaves_the_sink(namespace: Namespace) -> None:
    """The gate is open, and what drops our own packets is still there; a second flush is none either."""
    with namespace, OwnedTable(guard(Selector(Hook.INPUT))) as table:
        shut = f"nft list set inet {table.name} {SHUT}"
        assert "elements" in namespace.run(shut).stdout
        table.flush_set(SHUT)
        table.flush_set(SHUT)
        assert "elements" not in namespace.run(shut).stdout
        assert "tcp sequence 11" in namespace.run(f"nft list chain inet {table.name} sink_input").stdout


def test_counters_count_packets(namespace: Namespace) -> None:
    """Each named counter has the packets that came with the nonce of its hook, of this table and no other."""
    sender = socket.SOCK_DGRAM
    with namespace, OwnedTable(guard()) as other, OwnedTable(guard()) as table, socket.socket(type=sender) as udp:
        assert table.counters() == {RESETS: 0} | {arrived(hook): 0 for hook in HOOKS}
        other.close()
        for nonce, count in {11: 3, 33: 2, 44: 5}.items():
            for _ in range(count):
                with contextlib.suppress(PermissionError):  # so a sender is told that OUTPUT drops it
                    udp.sendto(payload(nonce), ("127.0.0.1", 9))
        assert table.counters() == {"arrived_input": 3, "arrived_forward": 0, "arrived_output": 2, RESETS: 0}


def refused(namespace: Namespace, name: str, chain: str) -> int:
    """What the counters in the rules of a chain have seen."""
    with namespace:  # what is compared with a name may be no text
        listing = subprocess.run(["nft", "list", "chain", "inet", name, chain], check=True, capture_output=True).stdout
    return sum(int(packets) for packets in re.findall(rb"counter packets (\d+)", listing))


DEVICES = {
    "plain": (b"eth0", b"\xff" * 5, "eth0", "eth1"),
    "hostile": (b'e";{drop}', b"\xff" * 10, 'e";{drop}', 'e";{drop'),
    "a beginning": (b"wg", b"\xff" * 2, "wg7", "gw7"),
    "with holes": (b"a-b-c", b"\xff\0\xff\0\xff\xff", "axbyc", "axxyc"),
}


@pytest.mark.parametrize(("name", "mask", "meant", "other"), DEVICES.values(), ids=DEVICES)
def test_holds_off_what_comes_by_the_interface(
    namespace_factory: Callable[[], Namespace], name: bytes, mask: bytes, meant: str, other: str
) -> None:
    """A SYN by the interface that is meant is dropped, one by another interface is not, whatever they are called."""
    here, there = namespace_factory(), namespace_factory()
    for number, device in enumerate([meant, other]):
        pair(here, device, there, f"peer{number}")
        add_address(here, device, f"10.{number}.0.1/24")
        add_address(there, f"peer{number}", f"10.{number}.0.2/24")
    told = Condition(protocol=6, in_interface=name, in_interface_mask=mask)
    with here, OwnedTable(guard(Selector(Hook.INPUT, (told,)))) as table, there:
        with socket.socket() as through, pytest.raises(ConnectionRefusedError):
            through.connect(("10.1.0.1", 873))
        assert refused(here, table.name, "gate_input") == 0
        with socket.socket() as held:
            held.setblocking(False)
            held.connect_ex(("10.0.0.1", 873))
            assert wait_until(lambda: refused(here, table.name, "gate_input") > 0)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """More open files than select(2) can watch."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    opened = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(1100)]
    yield
    for each in opened:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_works_past_fd_setsize(namespace: Namespace) -> None:
    """A program with thousands of open connections gets its table, counters and all."""
    with namespace, OwnedTable(guard(Selector(Hook.INPUT))) as table:
        assert table._open().fileno() >= 1024
        table.flush_set(SHUT)
        assert table.counters() == {RESETS: 0} | {arrived(hook): 0 for hook in HOOKS}


PLAIN_USER = """
import os
from nfkeep.errors import PermissionDeniedError
from nfkeep.nft.owned_table import OwnedTable
from nfkeep.nft.ruleset import Ruleset
os.setuid(65534)
try:
    OwnedTable(Ruleset())
except PermissionDeniedError as error:
    print("denied:", error.needed)
"""


def test_a_plain_user_is_told(namespace: Namespace) -> None:
    """PermissionDeniedError, with the right that is needed; nothing is made."""
    said = namespace.run([sys.executable, "-c", PLAIN_USER]).stdout
    assert said.startswith("denied: root")
    assert namespace.run("nft list tables").stdout == ""


def test_a_name_that_is_taken_is_passed_over(namespace: Namespace) -> None:
    """Two processes of one number, in two PID namespaces, can meet in one network namespace."""
    with namespace:
        with OwnedTable(Ruleset()) as first:
            pass
        stem, number = first.name.rsplit("-", 1)
        taken = [f"{stem}-{int(number) + 1}", f"{stem}-{int(number) + 2}"]
        blocker = BatchSocket()
        blocker.run(make_table(taken[0], Ruleset()))  # with an owner, and below without one
        namespace.run(f"nft add table inet {taken[1]}")
        with OwnedTable(Ruleset()) as table:
            assert table.name == f"{stem}-{int(number) + 3}"
        blocker.run([delete_table(taken[0])])
        blocker.close()
        assert namespace.run("nft list tables").stdout == f"table inet {taken[1]}\n"


BAD = {
    "a set that is not there": (
        (Meta(MetaKey.L4PROTO), Lookup("missing"), Verdict.DROP),
        "nf_tables: lookup in rule 2 of the chain c",
    ),
    "a value too long for what was loaded": (
        (Meta(MetaKey.L4PROTO), *(Compare(Relation.EQ, bytes(16)) for _ in range(130))),
        "nf_tables: rule 2 of the chain c",
    ),
}


@pytest.mark.parametrize(("rule", "feature"), BAD.values(), ids=BAD)
def test_a_refusal_names_what_was_refused(namespace: Namespace, rule: tuple[Meta, ...], feature: str) -> None:
    """UnsupportedError with the rule, and the expression where the kernel says it; nothing of the batch is in force."""
    chain = BaseChain("c", Hook.INPUT, 0, ((Verdict.ACCEPT,), rule))
    with namespace:
        with pytest.raises(UnsupportedError) as caught:
            OwnedTable(Ruleset(chains=(chain,)))
        assert caught.value.feature == feature
        assert "message 4" in str(caught.value)
        assert namespace.run("nft list tables").stdout == ""


def test_one_socket_recovers_from_a_refusal(namespace: Namespace) -> None:
    """Hundreds of errors in one batch lose nothing: the first is told, and the next batch goes through."""
    with namespace:
        sender = BatchSocket()
        rules = tuple((Meta(MetaKey.L4PROTO), Lookup("missing")) for _ in range(2000))
        made = make_table("t", Ruleset(chains=(BaseChain("c", Hook.INPUT, 0, rules),)))
        refusal = sender.send(made)
        assert refusal is not None
        assert refusal.index == 3
        assert sender.send(make_table("t", Ruleset())) is None
        sender.close()


def test_is_denied_where_the_right_is_missing_later(namespace: Namespace) -> None:
    """PermissionDeniedError also where somebody else's table is to be changed."""
    with namespace, OwnedTable(Ruleset()) as table:
        other = BatchSocket()
        with pytest.raises(PermissionDeniedError):
            other.run([delete_table(table.name)])
        other.close()
