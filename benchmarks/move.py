"""What the move of a running host takes: `nfkeep-migrate apply`, as library and as command, beside `nft -f` of it.

Run as root: python benchmarks/move.py [--rules 10000] [--elements 100000] [--runs 3] [--limit]. In a namespace of its
own, by turns; after each move the host is rolled back, outside of the time taken. The package has its byte code, as
whoever installs it has. Memory is the most that the process had, and the most that one of its children (nft, mostly)
had besides. With --limit the host has a rule that counts connections, and gates are shut while they are counted again:
who opens a connection waits so long.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import cProfile
import ipaddress
import json
import os
import pstats
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrs
from translate import ruleset

import nfkeep
from nfkeep.migrate.live import cutover, record
from nfkeep.migrate.live.host import read_host
from nfkeep.migrate.live.plan import make_plan
from nfkeep.namespaces import Namespace

GOAL, GOAL_MEBIBYTES = 2.0, 500.0
NAME = "banned"
COMMAND = "import sys; from nfkeep.cli.migrate import main; sys.exit(main(['apply']))"


@attrs.frozen
class Run:
    """Seconds of the clock and of the processor, MiB of the process and of its largest child, seconds behind gates."""

    seconds: float
    processor: float
    own: float
    child: float
    gates: float = 0.0


def host(rules: int, elements: int, *, limit: bool = False) -> Namespace:
    """One with so many rules in FORWARD, and one in INPUT and FORWARD each that looks into a set of that size."""
    namespace = Namespace()
    first = ipaddress.IPv4Address("100.64.0.0")
    members = "".join(f"add {NAME} {first + number} timeout {3600 + number}\n" for number in range(elements))
    namespace.run(
        ["ipset", "restore"], input=f"create {NAME} hash:ip timeout 3600 maxelem {2 * elements + 1}\n{members}"
    )
    namespace.run(["iptables-legacy-restore", "-c"], input=ruleset(rules))
    for chain in ("INPUT", "FORWARD"):
        namespace.run(f"iptables-legacy -I {chain} -m set --match-set {NAME} src -j DROP")
    if limit:
        namespace.run("iptables-legacy -A INPUT -p tcp --syn --dport 873 -m connlimit --connlimit-above 10 -j DROP")
    return namespace


def by_library(profile: Path | None = None) -> None:
    """Move the namespace that this process is in; prints a `Run` as JSON. For a process of its own."""
    with cProfile.Profile() if profile else contextlib.nullcontext() as profiler:
        started = time.perf_counter()
        with record.locked(wait=False):
            plan = make_plan(read_host(), try_out=False)
            cutover.check(plan)
            report = cutover.apply(plan, lambda _: None)
        seconds = time.perf_counter() - started
    if profile and profiler:
        profiler.dump_stats(profile)
    own, child = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    memory = own.ru_maxrss / 1024, child.ru_maxrss / 1024
    print(json.dumps([seconds, _processor(own) + _processor(child), *memory, report.gate_seconds]))


def in_library(namespace: Namespace, *options: str) -> Run:
    return Run(*json.loads(namespace.run([sys.executable, __file__, "--once", *options], timeout=600.0).stdout))


def by_command(namespace: Namespace, command: list[str]) -> Run:
    """Whole process, its start included; its memory and that of its children are not told apart."""
    started = time.perf_counter()
    process = namespace.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command}: exit status {process.returncode}")
    return Run(seconds, _processor(used), used.ru_maxrss / 1024, 0.0)


def rolled_back(namespace: Namespace) -> None:
    with namespace, record.locked():
        cutover.rollback()


def measure(namespace: Namespace, runs: int, folder: Path) -> dict[str, list[Run]]:
    """By turns, `nft -f` first: it makes the script's tables beside the rules of iptables, as the move does."""
    with namespace:
        plan = make_plan(read_host())
    script, gone = folder / "script.nft", folder / "gone.nft"
    script.write_text(plan.script)
    gone.write_text("".join(f"delete table {family} {name}\n" for family, name in plan.tables))
    print(f"the script: {script.stat().st_size / 1e6:.1f} MB", flush=True)
    del plan
    found: dict[str, list[Run]] = {"nft -f": [], "library": [], "command": []}
    for _ in range(runs):
        found["nft -f"].append(by_command(namespace, ["nft", "-f", str(script)]))
        namespace.run(["nft", "-f", str(gone)])
        found["library"].append(in_library(namespace))
        rolled_back(namespace)
        found["command"].append(by_command(namespace, [sys.executable, "-c", COMMAND]))
        rolled_back(namespace)
    return found


def compiled(folder: Path) -> None:
    """Have the processes that are started from now on find the byte code of all that they import, but for modules that
    only some rules need: of these the package's own."""
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(folder)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(Path(nfkeep.__file__).parent, quiet=1)
    subprocess.run([sys.executable, "-c", COMMAND.replace("'apply'", "'apply', '--help'")], stdout=-3, check=True)


def show(found: dict[str, list[Run]]) -> None:
    print(f"{'':<10}{'seconds':>10}{'ratio':>8}{'processor':>12}{'memory':>12}{'of a child':>12}")
    least = statistics.median(run.seconds for run in found["nft -f"])
    for name, runs in found.items():
        seconds, processor = statistics.median(r.seconds for r in runs), statistics.median(r.processor for r in runs)
        own, child = max(r.own for r in runs), max(r.child for r in runs)
        print(
            f"{name:<10}{seconds:>8.2f} s{seconds / least:>8.2f}{processor:>10.2f} s{own:>8.0f} MiB"
            + (f"{child:>8.0f} MiB" if child else "")
        )
    if longest := max(run.gates for run in found["library"]):
        print(f"gates shut: {longest * 1000:.0f} ms at most")
    print(f"goals: a ratio of at most {GOAL:g}, and at most {GOAL_MEBIBYTES:g} MiB in all")


def _processor(used: resource.struct_rusage) -> float:
    return used.ru_utime + used.ru_stime


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rules", type=int, default=10_000)
    options.add_argument("--elements", type=int, default=100_000)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--limit", action="store_true", help="have a rule that counts connections")
    options.add_argument("--profile", type=Path, help="tell where the time of one more move goes, and keep it here")
    options.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.once:
        by_library(given.profile)
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(host(given.rules, given.elements, limit=given.limit)) as namespace,
    ):
        compiled(Path(folder) / "bytecode")
        os.environ["XTABLES_LOCKFILE"] = f"{folder}/xtables.lock"
        os.environ["NFKEEP_RUN_DIRECTORY"] = f"{folder}/run"
        os.environ[record.VARIABLE] = f"{folder}/state"
        show(measure(namespace, given.runs, Path(folder)))
        if given.profile:
            in_library(namespace, "--profile", str(given.profile))
            pstats.Stats(str(given.profile)).sort_stats("cumulative").print_stats(40)


if __name__ == "__main__":
    main()
