"""The checks of what else rules keep: buckets of `limit`, quotas, rounds, and tables of `hashlimit`. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from nfkeep.keep import hold
from nfkeep.keep.health_finding import NEAR, Finding, Severity
from nfkeep.keep.health_seen import Seen, is_own
from nfkeep.keep.observe import Found, Observation
from nfkeep.model import Family
from nfkeep.xtables import hashlimit, limit, quota, statistic
from nfkeep.xtables.entry import Extension
from nfkeep.xtables.text import split

_LOSSES = {
    limit.NAME: "its bucket is full again, so that each time a whole burst gets through",
    quota.NAME: "it starts again with all of its bytes",
    statistic.NAME: "it starts its round again, so that shares are uneven while rules are changed",
}
_DEFAULT_SIZE = 8192
_LIMIT = re.compile(r"-m limit --limit (\d+)/(sec|min|hour|day)(?: --limit-burst (\d+))?")
_SECONDS = {"sec": 1, "min": 60, "hour": 3600, "day": 86400}
_DEFAULT_BURST = 5  # XT_LIMIT_BURST in extensions/libxt_limit.c
_LONGEST_NAME = 15  # struct xt_hashlimit_mtinfo1


def resets(host: Seen) -> Iterator[Finding]:
    """State in rules, connlimit aside, that every replace of the table sets back."""
    names = {key[1] for _, key in host.entries}
    for table in host.tables:
        at: dict[str, list[Found]] = {}
        for found in table.found:
            for kind in dict.fromkeys(match.name for match in found.entry.matches if _is_reset(match)):
                if found.chain != hold.CHAIN:
                    at.setdefault(kind, []).append(found)
        for kind, places in at.items():
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            what = f"{kind} at {table.where(places[0])}{more}: set back by every iptables command on that table"
            why, fix = _LOSSES[kind], f"{_command(table)} ARGS…   # in place of iptables; it says what came of it"
            commands = [_as_hashlimit(table, found, names) for found in places] if kind == limit.NAME else [None]
            if None not in commands:
                why += "; hashlimit without a mode is the same bucket, with a name, and survives"
                fix = "\n".join(filter(None, commands))
            yield Finding(Severity.WARN, what, why, fix)


def buckets(host: Seen) -> Iterator[Finding]:
    """Tables of hashlimit near the most buckets that they may have."""
    rules: dict[tuple[Family, str], list[tuple[Observation, Found]]] = {}
    for table in host.tables:
        for found in table.found:
            if not is_own(found.chain):
                for match in found.matches(hashlimit.NAME):
                    rules.setdefault((table.family, hashlimit.table_name(match)), []).append((table, found))
    for (family, name), places in rules.items():
        used = host.entries.get((family, (hashlimit.NAME, name)), 0)
        most = _most(str(places[0][1].rule))
        if used >= most * NEAR:
            yield Finding(
                Severity.BAD if used >= most else Severity.WARN,
                f"hashlimit table {family} {name}: {used} of {most} buckets",
                "when it is full, packets that want a new bucket are dropped; a larger table needs a name of its own",
                "\n".join(_with_more(table, found, f"{name}-2", 2 * most) for table, found in places),
            )


def _is_reset(match: Extension) -> bool:
    return match.name in _LOSSES and (match.name != statistic.NAME or statistic.every(match) is not None)


def _as_hashlimit(table: Observation, found: Found, names: set[str]) -> str | None:
    """The command that puts hashlimit in the place of a rule's limit; None if the rule has several.

    A bucket that is not used is forgotten after a time of its own, and full again: it must be full by then.
    """
    text = str(found.rule)
    told = _LIMIT.findall(text)
    if len(told) != 1:
        return None
    packets, unit, burst = told[0]
    name = _free_name(f"limit-{found.chain}", names)
    full_after = -(-int(burst or _DEFAULT_BURST) * _SECONDS[unit] * 1000 // int(packets))
    bucket = (
        f"-m hashlimit --hashlimit-upto {packets}/{unit} --hashlimit-burst {burst or _DEFAULT_BURST} "
        f"--hashlimit-name {name} --hashlimit-htable-expire {full_after}"
    )
    return _replace(table, found, _LIMIT.sub(bucket, text))


def _free_name(wanted: str, names: set[str]) -> str:
    number = 1
    while (name := f"{wanted[: _LONGEST_NAME - 1 - len(str(number))]}-{number}") in names:
        number += 1
    names.add(name)
    return name


def _most(rule: str) -> int:
    """As htable_create() in net/netfilter/xt_hashlimit.c; the default size is that of hosts with 1 GB or more."""
    told = {option: int(number) for option, number in re.findall(r" --hashlimit-htable-(size|max) (\d+)", rule)}
    size = told.get("size", _DEFAULT_SIZE)
    return max(told.get("max", 8 * size), size)


def _with_more(table: Observation, found: Found, name: str, most: int) -> str:
    """The command that puts a rule in its own place, with another table of buckets."""
    text = re.sub(r" --hashlimit-htable-max \d+", "", str(found.rule))
    return _replace(
        table, found, re.sub(r"--hashlimit-name \S+", f"--hashlimit-name {name} --hashlimit-htable-max {most}", text)
    )


def _replace(table: Observation, found: Found, rule: str) -> str:
    at = [] if table.table == "filter" else ["-t", table.table]
    return f"{_command(table)} {shlex.join([*at, '-R', found.chain, str(found.position), *split(rule)])}"


def _command(table: Observation) -> str:
    return f"nfkeep {'ip6tables' if table.family is Family.IPV6 else 'iptables'}"
