"""What it takes to carry keys of hashlimit with their tokens from iptables to nft, part by part.

Run as root: python benchmarks/tokens.py [--keys 10000] [--missing 10] [--runs 5]. In a namespace of its own, where both
rulesets are in force all the time. `--missing`: tokens that a key has too little at most; they have one to so many.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import struct
import time

from nfkeep import Family
from nfkeep.migrate.live import tokens
from nfkeep.migrate.live.commands import run_nft
from nfkeep.migrate.live.host import read_host
from nfkeep.migrate.live.plan import make_plan
from nfkeep.namespaces import Namespace
from nfkeep.xtables.hashlimit import read_buckets

NAME = "keys"
_LOOPBACK = socket.inet_aton("127.0.0.1")


def use_up(keys: int, missing: int) -> None:
    """Send from so many addresses, to this namespace itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(keys):
            source = struct.pack("!I", 0x0A000001 + number)
            header = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0) + source + _LOOPBACK
            for _ in range(1 + number % missing):
                raw.sendto(header + struct.pack("!HHHH", 1, 9, 8, 0), ("127.0.0.1", 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in (("--keys", 10_000), ("--missing", 10), ("--runs", 5)):
        parser.add_argument(option, type=int, default=default)
    asked = parser.parse_args()
    limit = f"--hashlimit-above 1/min --hashlimit-burst {asked.missing} --hashlimit-htable-size 1048576"
    namespace = Namespace()
    namespace.run(
        f"iptables-legacy -A OUTPUT -m hashlimit --hashlimit-name {NAME} --hashlimit-mode srcip {limit}"
        " --hashlimit-htable-expire 3600000 -j DROP"
    )
    found: dict[str, list[tuple[float, float]]] = {}
    with namespace:
        use_up(asked.keys, asked.missing)
        plan = make_plan(read_host())
        run_nft(plan.script)
        for _ in range(asked.runs):
            for what, do in (
                ("reading once", lambda: list(read_buckets(NAME, Family.IPV4))),
                ("all of it", lambda: tokens.carry(plan.keys)),
            ):
                started, processor = time.perf_counter(), time.process_time()
                do()
                taken = time.perf_counter() - started, time.process_time() - processor
                found.setdefault(what, []).append(taken)
        print(*(f"{o.where}: {o.fidelity.value}, {o.detail}" for o in tokens.carry(plan.keys).values()), sep="\n")
    namespace.close()
    print(f"{'median seconds':<16}{'clock':>8}{'processor':>12}")
    for what, all_taken in found.items():
        clock, processor = (statistics.median(each) for each in zip(*all_taken, strict=True))
        print(f"{what:<16}{clock:>8.3f}{processor:>12.3f}")


if __name__ == "__main__":
    main()
