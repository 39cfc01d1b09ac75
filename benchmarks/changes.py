"""How long a one-rule change takes: `iptables -A` beside nfkeep.transaction, and how long the gate is shut.

Run as root: python benchmarks/changes.py. Everything happens in network namespaces of its own; the ratios are what
counts, since both run on the same machine in the same minute.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable

import nfkeep
from nfkeep import Family
from nfkeep.namespaces import Namespace
from nfkeep.testing import EchoServer, Gateway, abort_all, dial

RUNS = 15
LIMITED = "-p tcp --syn --dport 873 -m connlimit --connlimit-above 1000 -j REJECT"


def milliseconds(act: Callable[[], object], runs: int = RUNS) -> float:
    """The median over some runs."""
    taken = []
    for _ in range(runs):
        started = time.perf_counter()
        act()
        taken.append((time.perf_counter() - started) * 1e3)
    return statistics.median(taken)


def append() -> nfkeep.Report:
    with nfkeep.transaction() as tx:
        tx.append("INPUT", "-s 192.0.2.1 -j DROP")
    return tx.report


def without_state() -> None:
    print("one rule appended, no state in the table (ms, median)")
    print(f"{'rules':>8}  {'iptables':>9}  {'nfkeep':>9}  {'ratio':>6}")
    for rules in (10, 1_000, 10_000):
        namespace = Namespace()
        lines = [f"-A INPUT -s 10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255} -j DROP" for n in range(rules)]
        namespace.run("iptables-legacy-restore", input="\n".join(["*filter", *lines, "COMMIT", ""]))
        with namespace:
            plain = milliseconds(lambda ns=namespace: ns.run("iptables-legacy -A INPUT -s 192.0.2.1 -j DROP"))
            ours = milliseconds(append)
        namespace.close()
        print(f"{rules:>8}  {plain:>9.2f}  {ours:>9.2f}  {ours / plain:>6.2f}")


def with_connections() -> None:
    print("\none rule appended, connections under a limit (ms, median)")
    print(f"{'flows':>8}  {'iptables':>9}  {'nfkeep':>9}  {'gate':>9}  {'gate, µs a flow':>16}")
    for flows in (10, 100, 1_000, 5_000):
        clients = max(1, flows // 10)
        with Gateway.build(clients) as network:
            address = network.gateway_address(Family.IPV4)
            network.gateway.run(f"iptables-legacy -A INPUT {LIMITED}")
            with EchoServer(network.gateway, Family.IPV4, "tcp", address, 873):
                sources = network.client_addresses(Family.IPV4)
                connections = dial(network.client, Family.IPV4, "tcp", address, 873, flows, source=sources)
                assert len(connections) == flows
                with network.gateway:
                    plain = milliseconds(
                        lambda ns=network.gateway: ns.run("iptables-legacy -A INPUT -s 192.0.2.1 -j DROP"), 5
                    )
                    gates: list[float] = []
                    ours = milliseconds(lambda shut=gates: shut.append(append().gate_seconds * 1e3), 5)
                abort_all(connections)
        gate = statistics.median(gates)
        print(f"{flows:>8}  {plain:>9.2f}  {ours:>9.2f}  {gate:>9.2f}  {gate * 1e3 / flows:>16.1f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XTABLES_LOCKFILE"] = f"{folder}/xtables.lock"
        without_state()
        with_connections()
