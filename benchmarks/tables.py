"""What one rule more costs in a table without state: nfkeep beside libip4tc in C and `iptables -A`.

The C program has the rule's bytes ready, so nfkeep is given a `Rule`; then the same from its text.

Run as root: python benchmarks/tables.py [--rules 10 1000 10000 50000]. In namespaces of its own. Both take turns,
so that the ratios count whatever else the machine does. Needs a C compiler and libip4tc's headers.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

import nfkeep
from nfkeep.namespaces import Namespace

HERE = Path(__file__).parent
RULE = "-s 192.0.2.1 -j DROP"
TURNS = 20


def peer(folder: str) -> str:
    program = f"{folder}/peer"
    subprocess.run(["gcc", "-O2", "-o", program, HERE / "tables_peer.c", "-lip4tc"], check=True)
    return program


def filled(rules: int) -> Namespace:
    namespace = Namespace()
    lines = [f"-A INPUT -s 10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255} -j DROP" for n in range(rules)]
    namespace.run("iptables-legacy-restore", input="\n".join(["*filter", *lines, "COMMIT", ""]))
    return namespace


def in_c(process: subprocess.Popen[str], times: int) -> list[float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{times}\n")
    process.stdin.flush()
    answer: IO[str] = process.stdout
    return [float(each) for each in answer.readline().split()]


def in_python(rule: nfkeep.Rule | str, times: int) -> list[float]:
    return [_in_python(rule) for _ in range(times)]


def _in_python(rule: nfkeep.Rule | str) -> float:
    started = time.perf_counter()
    with nfkeep.transaction() as tx:
        tx.append("INPUT", rule)
    taken = (time.perf_counter() - started) * 1e6
    with nfkeep.transaction() as tx:
        tx.delete("INPUT", rule)
    return taken


def by_command(namespace: Namespace) -> float:
    started = time.perf_counter()
    namespace.run(f"iptables-legacy -A INPUT {RULE}")
    taken = (time.perf_counter() - started) * 1e6
    namespace.run(f"iptables-legacy -D INPUT {RULE}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", type=int, nargs="+", default=[10, 1_000, 10_000, 50_000])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lock = os.environ["XTABLES_LOCKFILE"] = f"{folder}/xtables.lock"
        program = peer(folder)
        print("one rule appended, no state in the table (microseconds, medians; the ratio to libip4tc)")
        names = ("nfkeep", "from text", "iptables -A")
        print(f"{'rules':>8}  {'libip4tc in C':>14}", *(f"{name:>12}  {'ratio':>6}" for name in names), sep="  ")
        ready = nfkeep.Rule.parse(RULE)
        for rules in asked.rules:
            namespace = filled(rules)
            times = 20 if rules < 10_000 else 2
            with (
                namespace,
                subprocess.Popen([program, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
            ):
                turns = [(in_c(process, times), in_python(ready, times), in_python(RULE, times)) for _ in range(TURNS)]
                commands = [by_command(namespace) for _ in range(20)]
            namespace.close()
            ours = (itertools.chain.from_iterable(column) for column in zip(*turns, strict=True))
            c, *others = (statistics.median(column) for column in (*ours, commands))
            print(f"{rules:>8}  {c:>14.0f}", *(f"{each:>12.0f}  {each / c:>6.2f}" for each in others), sep="  ")


if __name__ == "__main__":
    main()
