"""Rules of nft as the kernel lists them: what they have counted, and what tells one from another."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from nfkeep import Counters, Family
from nfkeep.errors import NfkeepError
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.rule_counters import list_rules, read_again, seen

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace
    from nfkeep.nft.rule_counters import SeenRule

pytestmark = pytest.mark.kernel


def listed(namespace: Namespace, *rules: str) -> list[SeenRule]:
    """These rules of one chain, as they are listed."""
    script = "\n".join(f"add rule ip t c {rule}" for rule in rules)
    namespace.run(["nft", "-f", "-"], input=f"table ip t {{\nchain c {{\n}}\n}}\n{script}\n")
    with namespace, contextlib.closing(BatchSocket()) as opened:
        found = seen(Family.IPV4.value, list_rules(opened, Family.IPV4.value, "t"))
        assert read_again(opened, found) == found
        return found


SAME = {
    "another count": ("counter packets 1 bytes 2 drop", "counter packets 3 bytes 4 drop"),
    "another nameless set": ("tcp dport { 22, 23 } counter accept", "tcp dport { 22, 23 } counter accept"),
    "another nameless map": ("tcp dport vmap { 22 : drop }", "tcp dport vmap { 22 : drop }"),
    "a quota that is used": ("quota over 9000 bytes used 10 bytes drop", "quota over 9000 bytes drop"),
}
OTHER = {
    "another address": ("ip saddr 192.0.2.1 counter", "ip saddr 192.0.2.2 counter"),
    "another comment": ('counter comment "one"', 'counter comment "other"'),
    "no comment": ('counter comment "one"', "counter"),
    "another verdict": ("counter accept", "counter drop"),
    "another order": ("counter meta mark set 1 accept", "meta mark set 1 counter accept"),
    "the opposite": ("ip saddr 192.0.2.1 drop", "ip saddr != 192.0.2.1 drop"),
}


@pytest.mark.parametrize("rules", SAME.values(), ids=SAME)
def test_the_same_is_done(namespace: Namespace, rules: tuple[str, str]) -> None:
    """What a rule has counted and what its nameless sets are called is not what it does."""
    one, other = listed(namespace, *rules)
    assert one.meaning == other.meaning
    assert one.handle != other.handle


@pytest.mark.parametrize("rules", OTHER.values(), ids=OTHER)
def test_something_else_is_done(namespace: Namespace, rules: tuple[str, str]) -> None:
    """All else tells rules apart."""
    one, other = listed(namespace, *rules)
    assert one.meaning != other.meaning


def test_first_counter(namespace: Namespace) -> None:
    """A rule's counters are those of its first one, wherever it stands, and can be large; a rule may have none."""
    most = (1 << 64) - 1
    found = listed(
        namespace,
        "accept",
        "ip saddr 192.0.2.1 limit rate 3/second counter packets 5 bytes 6 counter packets 7 bytes 8 accept",
        f"counter packets {most} bytes {most}",
    )
    assert [rule.counters for rule in found] == [None, Counters(5, 6), Counters(most, most)]
    assert {(rule.table, rule.chain) for rule in found} == {("t", "c")}


def test_no_rule() -> None:
    """Bytes that are no rule are refused, and no bytes are no rules."""
    assert seen(Family.IPV4.value, []) == []
    for wrong in (b"", b"\x08\0\x01\0t\0\0\0", b"\xff\xff\x01\0t\0"):
        with pytest.raises(NfkeepError, match="reading rules"):
            seen(Family.IPV4.value, [wrong])
