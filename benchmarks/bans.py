"""What a ban costs: nfkeep.BanList beside the commands, the libraries, fail2ban's own actions, and the least possible.

Run as root: python benchmarks/bans.py [--bulk 100000 1000000] [--placed 0 10000 100000] [--json FILE]. All in network
namespaces of its own; the ratios are what counts, as all of it runs on the same machine in the same minutes. Needs a C
compiler for the floor; what is not installed is left out, and that is said.
"""

from __future__ import annotations

import argparse
import ipaddress
import itertools
import json
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import nfkeep
from nfkeep.namespaces import Namespace

HERE = Path(__file__).parent
SET = "table inet t { set s { type ipv4_addr; flags timeout; size SIZE; }; }"
RECENT = "iptables-legacy -A INPUT -m recent --rcheck --name jail -j DROP"


def addresses(first: str, count: int) -> Iterator[str]:
    start = int(ipaddress.IPv4Address(first))
    return (str(ipaddress.IPv4Address(start + number)) for number in range(count))


def p50(act: Callable[[str], object], count: int, first: str = "192.168.0.0") -> float:
    """Microseconds, the median of `count` calls with an address each."""
    taken = []
    for address in addresses(first, count):
        started = time.perf_counter_ns()
        act(address)
        taken.append((time.perf_counter_ns() - started) / 1e3)
    return statistics.median(taken)


def compile_floor(folder: str) -> str:
    program = f"{folder}/floor"
    subprocess.run(["cc", "-O2", "-o", program, str(HERE / "floor.c")], check=True)
    return program


def place(namespace: Namespace, floor: str, table: str, set_name: str, count: int) -> None:
    """Put `count` bans into a set, as fast as can be."""
    if count:
        namespace.run([floor, table, set_name, "bulk", str(count)])


class Rival:
    """One way to ban: `prepare` a namespace with `placed` bans in it, and give what bans one address."""

    def __init__(
        self, name: str, calls: int, prepare: Callable[[Namespace, int, str, ExitStack], Callable[[str], object]]
    ):
        self.name, self.calls, self.prepare = name, calls, prepare


def by_nfkeep(namespace: Namespace, placed: int, floor: str, stack: ExitStack) -> Callable[[str], object]:
    bans = stack.enter_context(nfkeep.BanList("jail", "nft", size=max(131_072, placed * 2)))
    place(namespace, floor, "nfkeep", "ban/jail/v4", placed)
    bans.ban("203.0.113.1", 600)
    return lambda address: bans.ban(address, 600)


def unban_by_nfkeep(namespace: Namespace, placed: int, floor: str, stack: ExitStack) -> Callable[[str], object]:
    bans = stack.enter_context(nfkeep.BanList("jail", "nft", size=max(131_072, placed * 2)))
    place(namespace, floor, "nfkeep", "ban/jail/v4", placed)
    bans.ban_many(addresses("192.168.0.0", 5000))
    return bans.unban


def recent_by_nfkeep(namespace: Namespace, placed: int, floor: str, stack: ExitStack) -> Callable[[str], object]:
    """The same 90 addresses over and over: the kernel's list holds no more than 100."""
    bans = stack.enter_context(nfkeep.BanList("jail", "recent"))
    some = itertools.cycle(list(addresses("192.168.0.0", 90)))
    return lambda _: bans.ban(next(some))


def recent_by_write(namespace: Namespace, placed: int, floor: str, stack: ExitStack) -> Callable[[str], object]:
    """The least: one write(2) to the open file, with nothing checked."""
    namespace.run(RECENT)
    file = os.open("/proc/thread-self/net/xt_recent/jail", os.O_RDWR)
    stack.callback(os.close, file)
    some = itertools.cycle([f"+{each}\n".encode() for each in addresses("192.168.0.0", 90)])

    def ban(_: str) -> None:
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, next(some))

    return ban


def recent_by_echo(namespace: Namespace, placed: int, floor: str, stack: ExitStack) -> Callable[[str], object]:
    namespace.run(RECENT)
    path = "/proc/thread-self/net/xt_recent/jail"
    return lambda address: run(["sh", "-c", f"echo +{address} > {path}"])


def ipset_by_nfkeep(namespace: Namespace, placed: int, floor: str, stack: ExitStack) -> Callable[[str], object]:
    bans = stack.enter_context(nfkeep.BanList("jail", "ipset", size=max(131_072, placed * 2)))
    bans.ban_many(addresses("10.0.0.0", placed))
    return lambda address: bans.ban(address, 600)


def by_nft(namespace: Namespace, placed: int, floor: str, stack: ExitStack) -> Callable[[str], object]:
    namespace.run("nft -f -", input=SET.replace("SIZE", str(placed + 10_000)))
    place(namespace, floor, "t", "s", placed)
    return lambda address: run(["nft", "add", "element", "inet", "t", "s", f"{{ {address} timeout 600s }}"])


def by_libnftables(namespace: Namespace, placed: int, floor: str, stack: ExitStack) -> Callable[[str], object]:
    import nftables

    namespace.run("nft -f -", input=SET.replace("SIZE", str(placed + 10_000)))
    place(namespace, floor, "t", "s", placed)
    nft = nftables.Nftables()

    def ban(address: str) -> None:
        element = {"family": "inet", "table": "t", "name": "s", "elem": [{"elem": {"val": address, "timeout": 600}}]}
        status, _, error = nft.json_cmd({"nftables": [{"add": {"element": element}}]})
        assert status == 0, error

    return ban


def by_pyroute2(namespace: Namespace, placed: int, floor: str, stack: ExitStack) -> Callable[[str], object]:
    """Its ipset side: set_elems() of its nftables side raises TypeError in 0.9.7."""
    from pyroute2 import IPSet

    by_ipset(namespace, placed, floor, stack)
    sets = stack.enter_context(IPSet())
    return lambda address: sets.add("s", address, timeout=600)


def by_ipset(namespace: Namespace, placed: int, floor: str, stack: ExitStack) -> Callable[[str], object]:
    namespace.run(f"ipset create s hash:ip timeout 0 maxelem {placed + 10_000}")
    if placed:
        namespace.run("ipset restore", input="".join(f"add s {each}\n" for each in addresses("10.0.0.0", placed)))
    return lambda address: run(["ipset", "add", "s", address, "timeout", "600"])


def by_fail2ban_iptables(namespace: Namespace, placed: int, floor: str, stack: ExitStack) -> Callable[[str], object]:
    """What /etc/fail2ban/action.d/iptables.conf runs for a ban: a check, and a rule."""
    rules = [f"-A f2b-jail -s {each}/32 -j REJECT" for each in addresses("10.0.0.0", placed)]
    save = ["*filter", ":f2b-jail - [0:0]", "-A INPUT -p tcp -j f2b-jail", *rules, "COMMIT", ""]
    namespace.run("iptables-legacy-restore", input="\n".join(save))
    check = "iptables-legacy -w -C INPUT -p tcp -j f2b-jail"
    insert = "iptables-legacy -w -I f2b-jail 1 -s {} -j REJECT --reject-with icmp-port-unreachable"
    return lambda address: run(["sh", "-c", f"{check} && {insert.format(shlex.quote(address))}"])


def by_fail2ban_nft(namespace: Namespace, placed: int, floor: str, stack: ExitStack) -> Callable[[str], object]:
    """What nftables.conf runs: a check, and `nft add element`."""
    namespace.run("nft -f -", input=SET.replace("SIZE", str(placed + 10_000)))
    namespace.run("nft add chain inet t c")
    place(namespace, floor, "t", "s", placed)
    check = "nft list chain inet t c | grep -q 'chain c'"
    return lambda address: run(["sh", "-c", f"{check} && nft add element inet t s '{{ {address} }}'"])


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


RIVALS = [
    Rival("nfkeep, nft", 3000, by_nfkeep),
    Rival("nfkeep, nft, unban", 3000, unban_by_nfkeep),
    Rival("nfkeep, ipset", 3000, ipset_by_nfkeep),
    Rival("libnftables, JSON, in process", 300, by_libnftables),
    Rival("pyroute2, ipset", 300, by_pyroute2),
    Rival("ipset add", 100, by_ipset),
    Rival("nft add element", 60, by_nft),
    Rival("fail2ban's nftables action", 30, by_fail2ban_nft),
    Rival("fail2ban's iptables action", 15, by_fail2ban_iptables),
]
SMALL = [
    Rival("nfkeep, recent", 3000, recent_by_nfkeep),
    Rival("write(2) to xt_recent, in Python", 3000, recent_by_write),
    Rival("echo + > xt_recent", 80, recent_by_echo),
]


def single(placed: list[int], floor: str) -> dict[str, dict[int, float]]:
    """Microseconds by rival and by how many bans are in place: of the fast ones the best of five medians."""
    results: dict[str, dict[int, float]] = {"the floor, in C": {}}
    for count in placed:
        namespace = Namespace()
        namespace.run("nft -f -", input=SET.replace("SIZE", str(count + 20_000)))
        place(namespace, floor, "t", "s", count)
        runs = [namespace.run([floor, "t", "s", "single", "3000", str(first)]).stdout for first in range(5)]
        results["the floor, in C"][count] = min(map(int, runs)) / 1e3
        namespace.close()
    for rival in [*RIVALS, *SMALL]:
        for count in placed[:1] if rival in SMALL else placed:
            namespace = Namespace()
            try:
                with namespace, ExitStack() as stack:
                    act = rival.prepare(namespace, count, floor, stack)
                    rounds = 5 if rival.calls >= 1000 else 1
                    results.setdefault(rival.name, {})[count] = min(p50(act, rival.calls) for _ in range(rounds))
            except (ImportError, FileNotFoundError) as error:
                print(f"left out: {rival.name}: {error}", file=sys.stderr)
            finally:
                namespace.close()
    return results


BULK = """
import resource, sys, time, nfkeep, ipaddress
count, step = int(sys.argv[1]), sys.argv[2]
start = int(ipaddress.IPv4Address("10.0.0.0"))
with nfkeep.BanList("jail", "nft", size=count * 2) as bans:
    bans.ban("203.0.113.1")
    given = [f"{n >> 24}.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in range(start, start + count)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if step == "stream":
        given = (f"{n >> 24}.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in range(start, start + count))
    started = time.perf_counter()
    bans.ban_many(given)
    banned = time.perf_counter() - started
    if step == "list":
        started = time.perf_counter()
        bans.unban_many(given)
    unbanned = time.perf_counter() - started
    print(banned * 1e3, unbanned * 1e3, before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def bulk(count: int, floor: str) -> dict[str, tuple[float, float]]:
    """Milliseconds to ban and to unban `count` addresses; for nfkeep the smallest of three, as for the floor."""
    results: dict[str, tuple[float, float]] = {}
    floors, ours, peaks = [], [], []
    for _ in range(3):
        namespace = Namespace()
        namespace.run("nft -f -", input=SET.replace("SIZE", str(count * 2)))
        floors.append(
            tuple(int(namespace.run([floor, "t", "s", what, str(count)]).stdout) / 1e6 for what in ("bulk", "unban"))
        )
        namespace.close()
        namespace = Namespace()
        told = namespace.run([sys.executable, "-c", BULK, str(count), "list"], timeout=600).stdout.split()
        ours.append((float(told[0]), float(told[1])))
        namespace.close()
        namespace = Namespace()
        told = namespace.run([sys.executable, "-c", BULK, str(count), "stream"], timeout=600).stdout.split()
        peaks.append(float(told[3]))
        namespace.close()
    results["the floor, in C"] = min(each[0] for each in floors), min(each[1] for each in floors)
    results["nfkeep.BanList"] = min(each[0] for each in ours), min(each[1] for each in ours)
    results["nfkeep.BanList, peak MiB of the process"] = min(peaks), 0.0
    if count <= 100_000:
        results["nft -f"] = timed(count, "nft -f -", SET, "add element inet t s {{ {} }}"), 0.0
        results["ipset restore"] = timed(count, "ipset restore", "", "add s {}"), 0.0
    return results


def timed(count: int, command: str, setup: str, line: str) -> float:
    namespace = Namespace()
    if setup:
        namespace.run(command, input=setup.replace("SIZE", str(count * 2)))
        text = line.format(", ".join(addresses("10.0.0.0", count)))
    else:
        namespace.run(f"ipset create s hash:ip maxelem {count * 2}")
        text = "".join(line.format(each) + "\n" for each in addresses("10.0.0.0", count))
    started = time.perf_counter()
    namespace.run(command, input=text)
    taken = (time.perf_counter() - started) * 1e3
    namespace.close()
    return taken


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--placed", type=int, nargs="*", default=[0, 10_000, 100_000])
    options.add_argument("--bulk", type=int, nargs="*", default=[100_000, 1_000_000])
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if shutil.which("cc") is None:
        sys.exit("this needs a C compiler, for the floor")
    seen: dict[str, object] = {"kernel": os.uname().release}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XTABLES_LOCKFILE"] = f"{folder}/xtables.lock"
        floor = compile_floor(folder)
        if given.placed:
            singles = single(given.placed, floor)
            seen["single_us"] = singles
            print(
                "one ban, µs (median), and how many times the floor",
                *[f"with {n} in place" for n in given.placed],
                sep="  ",
            )
            for name, by_count in singles.items():
                least = singles["the floor, in C"]
                cells = [f"{by_count[n]:10.1f} {by_count[n] / least[n]:7.1f}x" for n in by_count]
                print(f"{name:32}", *cells)
        for count in given.bulk:
            many = bulk(count, floor)
            seen[f"bulk_{count}_ms"] = many
            least = many["the floor, in C"]
            print(f"\n{count} bans at once, ms, and how many times the floor; then unbanned")
            for name, (banned, unbanned) in many.items():
                cells = [f"{banned:10.1f}"] if "MiB" in name else [f"{banned:10.1f} {banned / least[0]:6.2f}x"]
                if unbanned:
                    cells.append(f"{unbanned:10.1f} {unbanned / least[1]:6.2f}x")
                print(f"{name:40}", *cells)
    if given.json:
        given.json.write_text(json.dumps(seen, indent=2) + "\n")


if __name__ == "__main__":
    main()
