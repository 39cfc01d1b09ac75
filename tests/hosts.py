"""Hosts that are written down, and the plans of their moves, for tests of what is made of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep import Family
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.migrate.live.host import Host
from nfkeep.migrate.live.plan import Plan
from nfkeep.migrate.translation import translate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nfkeep.migrate.live.owners import Owner

HOSTILE = (
    "</script></style></td><script>document.title='owned'</script>",
    "<img src=x onerror=document.title='owned'>",
    "' onmouseover='document.title=1",
    "&lt;script&gt;&#60;b>",
    "<!--",
    "]]><svg/onload=document.title='owned'>",
    "\u202edrawkcab\u2066",
    "caf\udce9",
    "\x1b[31m\x7f\u00a0",
)
"""What others may have put into comments, prefixes and names."""

OUTCOMES = (
    Outcome("counters", "IPv4, all rules and policies", Fidelity.APPROXIMATED, "nearly"),
    Outcome("recent", "IPv4, list seen", Fidelity.RESTORED, "7 addresses"),
    Outcome("nfacct", "IPv4 filter INPUT rule 1", Fidelity.LOST, "begins at zero"),
)


def text(*rules: str, table: str = "filter", chain: str = ":INPUT ACCEPT [0:0]") -> str:
    """A table of iptables-save with these rules, the first of them in line 3."""
    return "\n".join([f"*{table}", chain, *rules, "COMMIT", ""])


def hostile_rules() -> list[str]:
    """Rules that are taken and rules that are lost, with each hostile text in a comment, in a chain's name."""
    return [
        f'-A INPUT -m comment --comment "{each}" {rest}'
        for each in HOSTILE
        for rest in ("-j ACCEPT", f'-j LOG --log-prefix "{each[:20]}"', f'-m no_such_match --x "{each}" -j DROP')
    ]


def plan(
    rules: Mapping[Family, str],
    outcomes: tuple[Outcome, ...] = (),
    owners: tuple[Owner, ...] = (),
    obstacles: tuple[str, ...] = (),
) -> Plan:
    """The plan for a host with these rules; no kernel and no nft is asked."""
    done = {family: translate(each, family) for family, each in rules.items()}
    return Plan(Host(rules), done, outcomes, owners, obstacles)
