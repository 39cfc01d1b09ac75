"""How fast iptables-save text becomes an nft script, and how fast that loads: nfkeep beside iptables-restore-translate.

Run as root (nft wants it, in a namespace of its own): python benchmarks/translate.py. Times are of the processor, of
whole processes, the interpreter's start included; the ratios are what counts.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

import attrs

SIZES = (1_000, 10_000, 100_000)
SHAPES = (
    "-s {address}/32 -j DROP",
    "-s {address}/32 -p tcp -m tcp --dport {port} -j ACCEPT",
    "-i eth{digit} -p udp -m udp --sport {port}:65535 -j ACCEPT",
    "-p tcp -m conntrack --ctstate NEW -m tcp --dport {port} -j REJECT --reject-with tcp-reset",
    "! -s {address}/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    '-d {address}/32 -p tcp -m comment --comment "rule {number}" -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP',
    "-s {address}/32 -i eth0 -o eth1 -j REJECT --reject-with icmp-port-unreachable",
    "-s {address}/32 -j user{digit}",
)
"""What rulesets consist of, in equal parts; none that iptables-restore-translate leaves out."""


@attrs.frozen
class Run:
    """What a process took: seconds of processor time, and the most memory it had, in MiB."""

    seconds: float
    mebibytes: float


def ruleset(rules: int) -> str:
    """Text of iptables-save with so many rules in FORWARD, half of them with counters."""
    chance = random.Random(1)
    lines = ["*filter", ":INPUT DROP [5:600]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"]
    lines += [f":user{digit} - [0:0]" for digit in range(10)]
    for number in range(rules):
        rule = SHAPES[number % len(SHAPES)].format(
            address=f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(1, 255)}",
            port=chance.randrange(1, 60_000),
            digit=chance.randrange(10),
            number=number,
        )
        counted = f"[{number}:{number * 60}] " if number % 2 else ""
        lines.append(f"{counted}-A FORWARD {rule}")
    return "\n".join([*lines, "COMMIT", ""])


def run(command: list[str], given: Path | None, into: Path) -> Run:
    """Run a command that must succeed, with files as its standard input and output."""
    child = os.posix_spawnp(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, str(given or os.devnull), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(into), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        ],
    )
    _, status, used = os.wait4(child, 0)
    assert status == 0, f"{command}: status {status}"
    return Run(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def measure(rules: int, folder: Path) -> None:
    """One line of the table for each of the two."""
    source = folder / "rules"
    source.write_text(ruleset(rules))
    ours = [sys.executable, "-c", "import sys; from nfkeep.cli.migrate import main; sys.exit(main(['translate']))"]
    for name, command in (
        ("iptables-restore-translate", ["iptables-restore-translate", "-f", str(source)]),
        ("nfkeep", ours),
    ):
        script = folder / f"{name}.nft"
        translated = run(command, source, script)
        loaded = run(["unshare", "-n", "nft", "-f", str(script)], None, folder / "listing")
        print(
            f"{rules:>8}  {name:<27}{translated.seconds:>8.2f} s{translated.mebibytes:>8.0f} MiB"
            f"{loaded.seconds:>8.2f} s{loaded.mebibytes:>8.0f} MiB{script.stat().st_size / 1e6:>8.1f} MB",
            flush=True,
        )


if __name__ == "__main__":
    print(f"{'rules':>8}  {'':<27}{'translate':>10}{'memory':>12}{'nft -f':>10}{'memory':>12}{'script':>11}")
    with tempfile.TemporaryDirectory() as directory:
        for size in SIZES:
            measure(size, Path(directory))
