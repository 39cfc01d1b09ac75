"""What one rule more costs in a table without state: nfkeep beside libip4tc in C and `iptables -A`.

Run as root: python benchmarks/tables.py [--rules 10 1000 10000 50000]. In namespaces of its own. Both take turns,
so that the ratios count whatever else the machine does. Needs a C compiler and libip4tc's headers.
"""

from __future__ import annotations

import argparse
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


def peer(folder: str) -> str:
    program = f"{folder}/peer"
    subprocess.run(["gcc", "-O2", "-o", program, HERE / "tables_peer.c", "-lip4tc"], check=True)
    return program


def filled(rules: int) -> Namespace:
    namespace = Namespace()
    lines = [f"-A INPUT -s 10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255} -j DROP" for n in range(rules)]
    namespace.run("iptables-legacy-restore", input="\n".join(["*filter", *lines, "COMMIT", ""]))
    return namespace


def in_c(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    answer: IO[str] = process.stdout
    return float(answer.readline())


def in_python() -> float:
    started = time.perf_counter()
    with nfkeep.transaction() as tx:
        tx.append("INPUT", RULE)
    taken = (time.perf_counter() - started) * 1e6
    with nfkeep.transaction() as tx:
        tx.delete("INPUT", RULE)
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
        print(f"{'rules':>8}  {'libip4tc in C':>14}  {'nfkeep':>10}  {'ratio':>6}  {'iptables -A':>12}  {'ratio':>6}")
        for rules in asked.rules:
            namespace = filled(rules)
            runs = 200 if rules < 10_000 else 25
            with (
                namespace,
                subprocess.Popen([program, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
            ):
                taken = [(in_c(process), in_python(), by_command(namespace) if n < 20 else 0.0) for n in range(runs)]
            namespace.close()
            c, python = (statistics.median(run[n] for run in taken) for n in (0, 1))
            command = statistics.median(run[2] for run in taken[:20])
            print(f"{rules:>8}  {c:>14.0f}  {python:>10.0f}  {python / c:>6.2f}  {command:>12.0f}  {command / c:>6.2f}")


if __name__ == "__main__":
    main()
