"""How long live flows under connlimit hold up a one-rule change: nfkeep.transaction beside the least that it can cost.

Run as root: python benchmarks/gate.py. Both run by turns in the same minute, in a network namespace of its own, and
after each of them one more connection of every source shows that all of its others are counted again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

import nfkeep
from nfkeep.conntrack import Injector
from nfkeep.conntrack.inject import Tap
from nfkeep.namespaces import Namespace
from nfkeep.testing import pair

HERE = Path(__file__).parent
EACH = 10
LIMITED = f"-p tcp --syn --dport 873 -m connlimit --connlimit-above {EACH} -j DROP"
# Behind nfkeep's own sink, so that what that lets through still meets no socket.
SINK = "table inet sink { chain c { type filter hook input priority 2; tcp dport 873 tcp flags syn drop; }; }"


@attrs.frozen
class Times:
    """Milliseconds, each by run."""

    floor_dump: list[float] = attrs.Factory(list)
    floor_rest: list[float] = attrs.Factory(list)
    gate: list[float] = attrs.Factory(list)
    whole: list[float] = attrs.Factory(list)

    def medians(self) -> dict[str, float]:
        """In milliseconds, by name."""
        return {name: statistics.median(taken) for name, taken in attrs.asdict(self).items()}


class Host:
    """A host with so many established connections, ten of each source, behind its eth0, and a rule that limits them."""

    def __init__(self, floor: str, flows: int) -> None:
        self.floor, self.flows = floor, flows
        self.namespace, self.peer = Namespace(), Namespace()
        pair(self.namespace, "eth0", self.peer, "eth0")
        self.namespace.run("ip address add 10.7.0.1/16 dev eth0")
        self.namespace.run(f"iptables-legacy -A INPUT {LIMITED}")
        self.namespace.run("nft -f -", input=SINK)
        with self.namespace:
            injector = Injector()
            injector.prepare([socket.if_nametoindex("eth0")])
            self.injector = injector
        self.run("fill", flows)

    def run(self, job: str, count: int) -> list[int]:
        """What the floor says."""
        tap: Sequence[Tap] = self.injector.taps
        with self.namespace:
            done = subprocess.run(
                [self.floor, job, str(count), str(tap[0].fd), tap[0].mac.hex(":")],
                pass_fds=[tap[0].fd], capture_output=True, text=True, check=True,
            )  # fmt: skip
        return [int(word) for word in done.stdout.split()]

    def check(self) -> None:
        """One more connection of each source is above the limit, and all entries are whole; SystemExit if not so."""
        sources = -(-self.flows // EACH)
        before = self.refused()
        self.run("syn", sources)
        refused = self.refused() - before
        if refused != sources:
            sys.exit(f"of {sources} sources only {refused} are counted")
        entries = self.namespace.run("conntrack -L -p tcp").stdout
        whole = len(re.findall(r"ESTABLISHED .*\[ASSURED\]", entries))
        if whole != self.flows or "UNREPLIED" in entries:
            sys.exit(f"of {self.flows} entries only {whole} are whole")

    def refused(self) -> int:
        """Packets that the limit has refused."""
        listed = self.namespace.run("iptables-legacy -vnxL INPUT").stdout
        (line,) = (line for line in listed.splitlines() if "#conn" in line)
        return int(line.split()[0])

    def close(self) -> None:
        self.injector.close()
        self.namespace.close()
        self.peer.close()


def measure(floor: str, flows: int, runs: int) -> Times:
    """Alternate both; the first run of each is not counted."""
    host, times = Host(floor, flows), Times()
    try:
        for run in range(runs + 1):
            host.namespace.run(f"iptables-legacy -A INPUT -s 192.0.2.{run} -j DROP")
            dumped, rest, _ = host.run("again", flows)
            host.check()
            with host.namespace:
                started = time.perf_counter()
                with nfkeep.transaction() as tx:
                    tx.append("INPUT", f"-s 198.51.100.{run} -j DROP")
                whole = time.perf_counter() - started
            host.check()
            (outcome,) = (each for each in tx.report.outcomes if each.kind == "connlimit")
            if outcome.fidelity is not nfkeep.Fidelity.RESTORED:
                sys.exit(str(outcome))
            if run:
                times.floor_dump.append(dumped / 1e6)
                times.floor_rest.append(rest / 1e6)
                times.gate.append(tx.report.gate_seconds * 1e3)
                times.whole.append(whole * 1e3)
    finally:
        host.close()
    return times


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--flows", type=int, nargs="*", default=[10, 1_000, 10_000, 100_000])
    options.add_argument("--runs", type=int, default=7)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    if shutil.which("cc") is None:
        sys.exit("this needs a C compiler, for the floor")
    seen: dict[int, dict[str, float]] = {}
    print("one rule appended, live flows under a limit (ms, medians)")
    print(f"{'flows':>8}{'floor: dump':>13}{'the rest':>10}{'gate shut':>11}{'x':>7}{'in all':>10}{'x':>7}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XTABLES_LOCKFILE"] = f"{folder}/xtables.lock"
        floor = f"{folder}/gate_floor"
        subprocess.run(["cc", "-O2", "-o", floor, str(HERE / "gate_floor.c")], check=True)
        for flows in given.flows:
            seen[flows] = medians = measure(floor, flows, given.runs).medians()
            dumped, rest, gate, whole = medians.values()
            least = dumped + rest
            print(
                f"{flows:>8}{dumped:>13.2f}{rest:>10.2f}{gate:>11.2f}{gate / least:>7.2f}"
                f"{whole:>10.2f}{whole / least:>7.2f}",
                flush=True,
            )
    if given.json:
        given.json.write_text(json.dumps(seen, indent=2) + "\n")


if __name__ == "__main__":
    main()
