"""Older set-ups that ban by xt_recent: the lists they left in the kernel, what is in them, and the rules that ask them.

The list is `f2b-NAME` (`f2b-NAME6` for IPv6) in fail2ban's own iptables-xt_recent-echo, and was `fail2ban-NAME` before.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator

import attrs

import nfkeep
from nfkeep.bans.recent_list import RecentList
from nfkeep.bans.values import Kind, address_of
from nfkeep.errors import UnsupportedError
from nfkeep.integrations.fail2ban.options import Options
from nfkeep.model import Family

__all__ = ["OldList", "OldRule", "find"]

_NET = "/proc/thread-self/net"
_FALLBACK_SECONDS = 3600.0  # what the action has always asked for
_NFT = {Family.IPV4: "iptables-nft", Family.IPV6: "ip6tables-nft"}


@attrs.frozen(slots=True)
class OldRule:
    """A rule of the table filter that asks an xt_recent list: `words` as iptables lists them, without the chain.

    `legacy`: the rule itself, where it is in the legacy table; None for one of iptables-nft.
    """

    family: Family
    chain: str
    words: tuple[str, ...]
    legacy: nfkeep.Rule | None = None


@attrs.frozen(slots=True)
class OldList:
    """A list of xt_recent, and the rules that ask it. `lasts_seconds`: how long an entry has an effect."""

    name: str
    lasts_seconds: float
    rules: tuple[OldRule, ...]

    def entries(self, longest_seconds: float = math.inf) -> dict[str, float]:
        """The addresses that are banned by it, and the seconds that are left, at most `longest_seconds`."""
        with open("/proc/thread-self/ns/net", "rb") as namespace:
            read = RecentList(
                self.name, 0 if math.isinf(self.lasts_seconds) else int(self.lasts_seconds), namespace.fileno()
            )
            try:
                found = {
                    str(address_of(kind, element.key)): element.expires_ms / 1000 or math.inf
                    for kind in (Kind.HOST4, Kind.HOST6)
                    for element in read.elements(kind)
                }
            finally:
                read.close()
        return {address: min(left, longest_seconds) for address, left in found.items()}

    def remove(self) -> list[nfkeep.Report]:
        """Delete the rules, with which the list goes. In legacy tables the state of all other rules is kept.

        Raises what nfkeep.transaction does, and subprocess.CalledProcessError.
        """
        reports = []
        for family in Family:
            legacy = [(rule.chain, rule.legacy) for rule in self.rules if rule.legacy and rule.family is family]
            if legacy:
                with nfkeep.transaction("filter", family, hold=False) as tx:
                    for chain, found in legacy:
                        tx.delete(chain, found)
                reports.append(tx.report)
        for rule in self.rules:
            if rule.legacy is None:
                _delete_from_nft(rule)
        return reports


def find(options: Options) -> tuple[OldList, ...]:
    """The older lists of a jail, its present one excepted; none where the kernel has no xt_recent."""
    names = [f"{prefix}-{options.name}{family}" for prefix in ("f2b", "fail2ban") for family in ("", "6")]
    if options.backend == "recent":
        names = [name for name in names if name != options.list_name]
    present = [name for name in names if "/" not in name and os.path.exists(f"{_NET}/xt_recent/{name}")]
    if not present:
        return ()
    rules = list(_rules())
    found = []
    for name in present:
        named = [rule for rule in rules if _after("--name", rule.words) == name]
        seconds = [_after("--seconds", rule.words) for rule in named]
        lasts = max((float(each) if each else math.inf for each in seconds), default=_FALLBACK_SECONDS)
        found.append(OldList(name, lasts, tuple(named)))
    return tuple(found)


def _after(option: str, words: tuple[str, ...]) -> str:
    return words[words.index(option) + 1] if option in words[:-1] else ""


def _rules() -> Iterator[OldRule]:
    """All rules of the table filter that ask any list, of either world."""
    for family, tables in ((Family.IPV4, "ip_tables_names"), (Family.IPV6, "ip6_tables_names")):
        for rule in (*_legacy(family, tables), *_nft(family)):
            if "recent" in rule.words and "--name" in rule.words:
                yield rule


def _legacy(family: Family, tables: str) -> Iterator[OldRule]:
    try:
        with open(f"{_NET}/{tables}", encoding="ascii") as names:
            if "filter" not in names.read().split():
                return  # to read it would make it
        table = nfkeep.read("filter", family)
    except (FileNotFoundError, UnsupportedError):
        return
    for chain in table.chains.values():
        for rule in chain.rules:
            yield OldRule(family, chain.name, tuple(shlex.split(str(rule))), rule)


def _nft(family: Family) -> Iterator[OldRule]:
    binary = _binary(family)
    if binary is None:
        return
    listed = subprocess.run([binary, "-w", "-S"], check=False, capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        words = shlex.split(line)
        if words[:1] == ["-A"]:
            yield OldRule(family, words[1], tuple(words[2:]))


def _delete_from_nft(rule: OldRule) -> None:
    """Delete a rule of iptables-nft, which replaces no table and resets nothing.

    What it lists as `--mask 255.255.255.255` is another rule if it is given like that: the mask is then a shorter one.
    """
    binary = _binary(rule.family) or _NFT[rule.family]
    listed = list(rule.words)
    if "--mask" in listed:
        at = listed.index("--mask")
        unmasked = listed[:at] + listed[at + 2 :]
        if not subprocess.run([binary, "-w", "-D", rule.chain, *unmasked], check=False, capture_output=True).returncode:
            return
    subprocess.run([binary, "-w", "-D", rule.chain, *listed], check=True, capture_output=True, text=True)


def _binary(family: Family) -> str | None:
    return shutil.which(_NFT[family], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
