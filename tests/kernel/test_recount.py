"""Counters that another program has lowered: told apart by how it did that, and never counted twice."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import pytest

import nfkeep
from nfkeep import Counters, Family
from nfkeep.xtables.tables import TableHandle

if TYPE_CHECKING:
    from pathlib import Path

    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

#: Packets of each rule before and after a replace, and those that it ends with.
LOWERED = {
    "carried over": ([100, 7], [100, 9], [100, 9]),
    "begun anew": ([1000, 3, 0], [0, 0, 0], [1000, 3, 0]),
    "begun anew, and met since": ([1000, 500, 10], [20, 5, 2], [1020, 505, 12]),
    "one rule, begun anew": ([100], [3], [103]),
    "a rule made again among others that are carried over": ([10**9, 100], [10**9 + 5, 3], [10**9 + 5, 103]),
    "a rule that is rarely met, beside one that was busy since": ([1000, 2], [40, 1], [1040, 3]),
    "an earlier save": ([1000, 500, 10], [990, 500, 9], [1000, 500, 10]),
    "an earlier save, of before a rule was met": ([1000, 3, 1], [990, 0, 0], [1000, 3, 1]),
    "an earlier save, of which a rule had half": ([1000, 20], [990, 10], [1000, 20]),
    "an earlier save, and met since": ([1000, 500], [995, 510], [1000, 510]),
    "one rule, of an earlier save": ([11], [10], [11]),
    "never met before": ([0, 0], [5, 0], [5, 0]),
}


def put(namespace: Namespace, family: Family, packets: list[int], policy: int = 0) -> None:
    """A table of so many rules with these counters, a hundred bytes for each packet."""
    rules = [f"[{n}:{n * 100}] -A INPUT -p udp -m udp --dport {port}" for port, n in enumerate(packets, 1)]
    policies = f":INPUT ACCEPT [{policy}:{policy * 100}]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"
    binary = "iptables-legacy" if family is Family.IPV4 else "ip6tables-legacy"
    namespace.run(f"{binary}-restore -c", input="\n".join(("*filter", *policies, *rules, "COMMIT", "")))


def recounted(namespace: Namespace, family: Family, way: str, before: list[int], after: list[int],
              policies: tuple[int, int] = (0, 0)) -> tuple[list[Counters], Counters | None]:  # fmt: skip
    """Counters of the rules, and of the policy, once what `after` lacks of `before` was given back."""
    put(namespace, family, before, policies[0])
    with namespace:
        with TableHandle("filter", family) as handle:
            earlier = handle.image()
        put(namespace, family, after, policies[1])
        with TableHandle("filter", family) as handle:
            if way == "load":
                handle.load(earlier)
                handle.commit()
            else:
                handle.recount(earlier)
        chain = nfkeep.read("filter", family).chains["INPUT"]
    return [rule.counters for rule in chain.rules], chain.counters


WAYS = pytest.mark.parametrize(("family", "way"), [(Family.IPV4, "recount"), (Family.IPV6, "recount"),
                                                   (Family.IPV4, "load")], ids=str)  # fmt: skip


@WAYS
@pytest.mark.parametrize(("before", "after", "expected"), LOWERED.values(), ids=LOWERED)
def test_counters_get_what_they_lack(
    namespace: Namespace, family: Family, way: str, before: list[int], after: list[int], expected: list[int]
) -> None:
    """What was counted before is added where the counters began anew, and only what an earlier save lacks otherwise."""
    rules, _ = recounted(namespace, family, way, before, after)
    assert rules == [Counters(n, n * 100) for n in expected]


@WAYS
def test_policies_do_not_tell_of_rules(namespace: Namespace, family: Family, way: str) -> None:
    """iptables has the policies begin anew at any change, and iptables-restore sets them also where rules have none."""
    rules, policy = recounted(namespace, family, way, [1000, 11], [990, 10], policies=(10**9, 0))
    assert (rules, policy) == ([Counters(1000, 100000), Counters(11, 1100)], Counters(10**9, 10**11))
    rules, policy = recounted(namespace, family, way, [1000], [20], policies=(10**9, 10**9 - 7))
    assert (rules, policy) == ([Counters(1020, 102000)], Counters(10**9, 10**11))


COUNTED = "-A INPUT -p udp --dport 9"
QUOTA = f"{COUNTED} -m quota --quota 100000"
SEND = (
    f'{sys.executable} -c "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);'
    " s.sendto(bytes(972), ('127.0.0.1', 9))\""
)
OLDER = {
    "restored": "iptables-legacy-restore -c < rules",
    "flushed and restored": "iptables-legacy -F; iptables-legacy-restore -c < rules",
    "restored, and a rule more": "iptables-legacy-restore -c < rules; iptables-legacy -A FORWARD -j DROP",
    "restored twice": "iptables-legacy-restore -c < rules; iptables-legacy-restore -c < rules",
}


@pytest.mark.parametrize("way", OLDER.values(), ids=OLDER)
def test_an_earlier_save_is_not_counted_twice(namespace: Namespace, tmp_path: Path, way: str) -> None:
    """A packet passes between the save and the restore: rules have counted it once, and so it comes off the quota."""
    for rule in (COUNTED, QUOTA):
        namespace.run(f"iptables-legacy {rule}")
    with namespace:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(10):
                sender.sendto(bytes(972), ("127.0.0.1", 9))
        with nfkeep.keep() as kept:
            namespace.run(["sh", "-ec", f"cd {tmp_path}; iptables-legacy-save -c > rules; {SEND}; {way}"])
        rules = nfkeep.read("filter").chains["INPUT"].rules
    assert [rule.counters for rule in rules] == [Counters(11, 11000)] * 2
    assert [outcome.detail for outcome in kept.report.outcomes] == ["89000 of 100000 bytes are left"]
