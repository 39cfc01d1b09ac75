"""Rules that take their own places with other counters: all else about them is as it was, whatever is in them."""

from __future__ import annotations

import contextlib
import itertools
import re
from typing import TYPE_CHECKING

import pytest
from corpus import Command, extension_file, extension_files, needs_corpus, needs_rulesets, rulesets

from nfkeep import Counters, Family, InvalidRuleError
from nfkeep.migrate import translate
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.replaced_rules import ReplacedRules
from nfkeep.nft.rule_again import again
from nfkeep.nft.rule_counters import list_rules, seen
from nfkeep.nft.table_list import tables

if TYPE_CHECKING:
    from pathlib import Path

    from nfkeep.namespaces import Namespace
    from nfkeep.nft.rule_counters import SeenRule

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

COUNTER = re.compile(r"counter packets \d+ bytes \d+")
MANY = ", ".join(f"{port} : drop" for port in range(1, 2400, 2))
RULES = {
    "a set": "tcp dport { 22, 80, 443 } counter accept",
    "ranges": "tcp dport { 1-20, 22, 30-40, 41-50, 60000-65535 } counter accept",
    "addresses": "ip saddr { 0.0.0.0/8, 10.0.0.0/8, 192.0.2.7, 255.255.255.255 } counter drop",
    "pairs": "ip saddr . tcp dport { 192.0.2.1 . 22, 192.0.2.2 . 80 } counter drop",
    "pairs of ranges": "ip saddr . tcp dport { 192.0.2.0/24 . 22-25, 198.51.100.1-198.51.100.9 . 80 } counter drop",
    "verdicts": "counter tcp dport vmap { 22 : accept, 23 : drop, 24 : jump other }",
    "verdicts by range": "ip saddr vmap { 10.0.0.0/8 : accept, 11.0.0.0-11.255.255.255 : drop } counter",
    "more than fit into one message": f"counter tcp dport vmap {{ {MANY} }}",
    "values": "counter meta mark set tcp dport map { 22 : 0x1, 80 : 0x2 } accept",
    "two sets and a comment": 'ip saddr { 192.0.2.1, 192.0.2.2 } counter tcp dport { 3, 4 } drop comment "both"',
    "a TCP option": "tcp flags syn tcp option maxseg size set 1400 counter",
    "a set without timeouts": "counter add @plain { ip saddr } accept",
    "a set with timeouts": "counter add @timed { ip saddr timeout 90s } accept",
    "a limit in a set": "update @timed { ip saddr limit rate over 3/second burst 7 packets } counter drop",
}  # fmt: skip


def read(namespace: Namespace) -> dict[str, list[SeenRule]]:
    with namespace, contextlib.closing(BatchSocket()) as opened:
        return {
            str(table.key): seen(table.family, list_rules(opened, table.family, table.name)) for table in tables(opened)
        }


def counted_once_more(namespace: Namespace) -> int:
    """Give all rules with counters others, twice; how many those are. All else in the ruleset is as it was."""
    before = namespace.run("nft list ruleset").stdout
    rules = [rule for some in read(namespace).values() for rule in some if rule.counters is not None]
    with namespace, contextlib.closing(BatchSocket()) as opened, ReplacedRules() as replaced:
        for at in range(0, len(rules), 10):
            numbers = itertools.count(1)
            some = [again(opened, rule, numbers) for rule in rules[at : at + 10]]
            for packets in (7, 9):
                counters = Counters(packets, 1 << 40)
                opened.run([message for each in some for message in each.messages(counters)])
                gone = replaced.take()
                assert {place[2] for place in gone} == {each.rule.handle for each in some}
            assert set(gone.values()) == {Counters(7, 1 << 40)}
    after = namespace.run("nft list ruleset").stdout
    assert COUNTER.sub("", after) == COUNTER.sub("", before)
    found = [rule for some in read(namespace).values() for rule in some if rule.counters is not None]
    assert {rule.counters for rule in found} <= {Counters(9, 1 << 40)}
    assert [rule.meaning for rule in found] == [rule.meaning for rule in rules]
    return len(rules)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_all_else_is_as_it_was(namespace: Namespace, rule: str) -> None:
    """Nameless sets of every kind, and what the kernel lists otherwise than it takes it."""
    script = f"""table ip t {{
        set plain {{ type ipv4_addr; flags dynamic; size 100; }}
        set timed {{ type ipv4_addr; flags dynamic,timeout; timeout 1m; size 100; }}
        chain other {{ }}
        chain c {{ {rule}; }}
    }}
    """
    namespace.run(["nft", "-f", "-"], input=script.replace("; }", "\n}").replace(";", "\n").replace("{ }", "{\n}"))
    assert counted_once_more(namespace) == 1


def test_which_forget_their_limit(namespace: Namespace) -> None:
    """A limit of the rule itself is full again; one in a set has its own life."""
    namespace.run(
        ["nft", "-f", "-"],
        input="""table ip t {
        set timed {
            type ipv4_addr
            flags dynamic,timeout
            timeout 1m
            size 100
        }
        chain c {
            limit rate 3/second counter accept
            update @timed { ip saddr limit rate over 3/second } counter drop
            counter
        }
    }
    """,
    )
    [rules] = read(namespace).values()
    with namespace, contextlib.closing(BatchSocket()) as opened:
        assert [again(opened, rule, itertools.count(1)).forgets for rule in rules] == [True, False, False]


@needs_corpus
@pytest.mark.parametrize("path", extension_files(), ids=lambda path: path.name)
def test_extensions(path: Path, namespace: Namespace) -> None:
    """What every rule of iptables' own tests becomes in nft."""
    for line in extension_file(path):
        if isinstance(line, Command) or not line.valid:
            continue
        for family in line.families:
            chain = line.chains[0].strip()
            with contextlib.suppress(InvalidRuleError):
                script = translate(
                    f"*{line.table}\n:{chain} ACCEPT [0:0]\n-A {chain} {line.rule}\nCOMMIT\n", family
                ).script
                if not namespace.run(["nft", "-f", "-"], input=f"flush ruleset\n{script}", check=False).returncode:
                    counted_once_more(namespace)


@needs_rulesets
@pytest.mark.parametrize("path", rulesets(), ids=lambda path: path.name)
@pytest.mark.parametrize("optimize", [False, True], ids=["as it is", "optimized"])
def test_real_rulesets(path: Path, optimize: bool, namespace: Namespace) -> None:
    """Those of real hosts."""
    family = Family.IPV6 if path.suffix == ".v6" else Family.IPV4
    translation = translate(path.read_text(errors="surrogateescape"), family, optimize=optimize)
    namespace.run(["nft", "-f", "-"], input=translation.script)
    counted_once_more(namespace)
