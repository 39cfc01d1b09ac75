"""Eight processes change the same tables at once, half of them nfkeep, half iptables: no change of anybody is lost.

The model is iptables' own test of concurrent restores (iptables/tests/shell/testcases/ipt-restore).
"""

from __future__ import annotations

import json
import multiprocessing
import random
import socket
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from rounds import rounds

import nfkeep
from nfkeep import Counters, Family
from nfkeep.keep.transaction import transactions

if TYPE_CHECKING:
    from pathlib import Path

    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

OPERATIONS = rounds(60)
BINARIES = {Family.IPV4: "iptables-legacy", Family.IPV6: "ip6tables-legacy"}
DATAGRAM, HEADERS = 32, 28

Rules = dict[Family, list[str]]
"""Rules in order, as iptables-save prints them without `-A INPUT`."""


def rule(worker: int, number: int, family: Family) -> str:
    source = (
        f"10.{worker}.{number >> 8}.{number & 255}/32" if family is Family.IPV4 else f"fd00::a{worker}:{number}/128"
    )
    return f"-s {source} -j DROP"


class Writer:
    """One of the processes: appends rules of its own and takes some of them out again."""

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.chance = random.Random(worker)
        self.rules: Rules = {family: [] for family in Family}
        self.made = 0

    def work(self) -> None:
        for _ in range(OPERATIONS):
            family = self.chance.choice(list(Family))
            own = self.rules[family]
            if len(own) > 4 and self.chance.random() < 0.4:
                self.take_out(family, own.pop(self.chance.randrange(len(own))))
            else:
                self.put_in({family: [self.new(family) for _ in range(self.chance.choice([1, 3]))]})

    def new(self, family: Family) -> str:
        self.made += 1
        self.rules[family].append(rule(self.worker, self.made, family))
        return self.rules[family][-1]

    def put_in(self, rules: Rules) -> None:
        raise NotImplementedError

    def take_out(self, family: Family, rule: str) -> None:
        raise NotImplementedError


class OneTable(Writer):
    """Through `transaction`."""

    def put_in(self, rules: Rules) -> None:
        for family, texts in rules.items():
            with nfkeep.transaction("filter", family) as tx:
                for text in texts:
                    tx.append("INPUT", text)

    def take_out(self, family: Family, rule: str) -> None:
        with nfkeep.transaction("filter", family) as tx:
            tx.delete("INPUT", rule)


class TwoTables(OneTable):
    """Through `transactions`, both families as one."""

    def put_in(self, rules: Rules) -> None:
        rules = {family: [*rules.get(family, []), self.new(family)] for family in Family}
        with transactions(*(("filter", family) for family in Family)) as txs:
            for family, texts in rules.items():
                for text in texts:
                    txs["filter", family].append("INPUT", text)


class Commands(Writer):
    """Through `iptables -w -A` and `-D`."""

    def put_in(self, rules: Rules) -> None:
        for family, texts in rules.items():
            for text in texts:
                subprocess.run([BINARIES[family], "-w", "-A", "INPUT", *text.split()], check=True)

    def take_out(self, family: Family, rule: str) -> None:
        subprocess.run([BINARIES[family], "-w", "-D", "INPUT", *rule.split()], check=True)


class Restores(Writer):
    """Through `iptables-restore -w --noflush`."""

    def put_in(self, rules: Rules) -> None:
        for family, texts in rules.items():
            self.restore(family, [f"-A INPUT {text}" for text in texts])

    def take_out(self, family: Family, rule: str) -> None:
        self.restore(family, [f"-D INPUT {rule}"])

    def restore(self, family: Family, lines: list[str]) -> None:
        text = "\n".join(["*filter", *lines, "COMMIT", ""])
        subprocess.run([f"{BINARIES[family]}-restore", "-w", "--noflush"], input=text, text=True, check=True)


WRITERS: list[Callable[[int], Writer]] = [
    OneTable,
    OneTable,
    TwoTables,
    TwoTables,
    Commands,
    Commands,
    Restores,
    Restores,
]


def test_no_update_is_lost(namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the end the tables hold what each process left, in its order, and a rule under traffic has counted exactly."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    namespace.run("iptables-legacy -A INPUT -i lo -p udp --dport 9 -j ACCEPT")
    context = multiprocessing.get_context("fork")

    def run(worker: int) -> None:
        with namespace:
            writer = WRITERS[worker](worker)
            writer.work()
        (tmp_path / f"{worker}.json").write_text(json.dumps({str(each): own for each, own in writer.rules.items()}))

    processes = [context.Process(target=run, args=(worker,)) for worker in range(len(WRITERS))]
    for process in processes:
        process.start()
    with namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sent = 0
        sender.connect(("127.0.0.1", 9))
        while any(process.is_alive() for process in processes):
            sent += send(sender)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(WRITERS)
    left = [json.loads((tmp_path / f"{worker}.json").read_text()) for worker in range(len(WRITERS))]
    with namespace:
        tables = {family: nfkeep.read("filter", family).chains["INPUT"].rules for family in Family}
    first, *tables[Family.IPV4] = tables[Family.IPV4]
    assert first.counters == Counters(sent, sent * (DATAGRAM + HEADERS))
    for family, rules in tables.items():
        texts = [str(each) for each in rules]
        assert sorted(texts) == sorted(text for own in left for text in own[str(family)])
        for own in left:
            assert [text for text in texts if text in set(own[str(family)])] == own[str(family)]


def send(sender: socket.socket) -> int:
    """A packet; nobody listens, so that the answer to the one before it may come as an error in its place."""
    try:
        sender.send(bytes(DATAGRAM))
    except ConnectionRefusedError:
        return 0
    return 1
