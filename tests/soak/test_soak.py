"""Thousands of transactions in one process: its memory does not grow, nor the number of its files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import nfkeep
from nfkeep import Family, InvalidRuleError, Rule

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(1800)]

TRANSACTIONS = int(os.environ.get("NFKEEP_SOAK_TRANSACTIONS", "10000"))
WARM = TRANSACTIONS // 5
GROWTH_BYTES = 1 << 20


def resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE")


def files() -> int:
    return len(os.listdir("/proc/self/fd"))


def fill() -> None:
    """A table of 200 rules, among them one of a list and one with a quota, and a user chain."""
    with nfkeep.transaction() as tx:
        tx.new_chain("user")
        tx.append("user", "-p tcp --dport 22 -j ACCEPT")
        tx.append("INPUT", "-m recent --name soak --set")
        tx.append("INPUT", "-m quota --quota 1000000 -j ACCEPT")
        tx.append("FORWARD", "-j user")
        for number in range(196):
            tx.append("INPUT", f"-s 192.0.2.{number} -p tcp -m multiport --dports 80,443 -j DROP")


def once(number: int) -> None:
    """A change, and everything else that a program does with rules."""
    rule = f"-s 198.51.100.{number % 250} -j DROP"
    with nfkeep.transaction() as tx:
        if number % 2:
            tx.delete("INPUT", f"-s 198.51.100.{(number - 1) % 250} -j DROP")
        else:
            tx.append("INPUT", rule)
    if number % 10 == 0:
        [str(each) for each in nfkeep.read("filter").chains["INPUT"].rules[:20]]
        Rule.parse("-s 2001:db8::1 -m limit --limit 3/min", Family.IPV6)
        for bad in ("-m nothing", "-p tcp --dport", "-j LOG --log-level x"):
            with contextlib.suppress(InvalidRuleError):
                Rule.parse(bad)
        with pytest.raises(InvalidRuleError), nfkeep.transaction() as tx:
            tx.delete("INPUT", "-s 203.0.113.1 -j DROP")


def test_nothing_grows(namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first fifth of the transactions memory grows by less than 1 MiB, and the number of files not at all."""
    monkeypatch.setenv("NFKEEP_RUN_DIRECTORY", str(tmp_path))
    tmp_path.chmod(0o700)
    with namespace:
        fill()
        for number in range(WARM):
            once(number)
        before = resident(), files()
        for number in range(WARM, TRANSACTIONS):
            once(number)
        after = resident(), files()
    assert after[1] == before[1]
    assert after[0] - before[0] < GROWTH_BYTES
