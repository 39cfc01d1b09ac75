"""A machine whose rules of iptables are loaded at boot from files, as Debian's netfilter-persistent does it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import attrs
import pytest
from machine import QEMU, Machine, kernel
from mover import without_counters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETS = """create banned hash:ip family inet hashsize 1024 maxelem 1000 timeout 86400
add banned 198.51.100.7 timeout 80000
"""
RULES = """*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x5/0xffffffff
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:own - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m set --match-set banned src -j DROP
-A INPUT -m recent --rcheck --seconds 3600 --name seen --mask 255.255.255.255 --rsource -j DROP
-A INPUT -p tcp -m tcp --dport 873 -m connlimit --connlimit-above 9 -j REJECT --reject-with tcp-reset
-A INPUT -j own
-A own -p tcp -m multiport --dports 22,80 -j ACCEPT
COMMIT
"""
RULES6 = """*filter
:INPUT DROP [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""
# But for its commands, which are those of the files in its folder plugins.d, the package's own.
SERVICE = """[Unit]
Description=netfilter persistent configuration
DefaultDependencies=no
Wants=network-pre.target systemd-modules-load.service local-fs.target
Before=network-pre.target shutdown.target
After=systemd-modules-load.service local-fs.target
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ipset restore -exist -file /etc/iptables/ipsets
ExecStart=/usr/sbin/iptables-legacy-restore /etc/iptables/rules.v4
ExecStart=/usr/sbin/ip6tables-legacy-restore /etc/iptables/rules.v6
[Install]
WantedBy=multi-user.target
"""
CONFIGURATION = "#!/usr/sbin/nft -f\n\nflush ruleset\n\ntable inet filter {\n\tchain input {\n\t}\n}\n"
FILES = {
    "/etc/iptables/ipsets": SETS,
    "/etc/iptables/rules.v4": RULES,
    "/etc/iptables/rules.v6": RULES6,
    "/etc/systemd/system/netfilter-persistent.service": SERVICE,
    "/etc/nftables.conf": CONFIGURATION,
}
_LOOK = (
    "for each in ip ip6; do ${each}tables-legacy-save; done; echo ====; nft -s list ruleset; echo ====;"
    " nfkeep-migrate status --json"
)


@attrs.frozen
class Sight:
    """What is in force: lines of iptables-save without counters; of nft, without elements; what `status` says."""

    iptables: tuple[str, ...]
    nft: tuple[str, ...]
    status: dict[str, object]

    @property
    def says(self) -> tuple[object, object, object]:
        return self.status["state"], self.status["iptables"], self.status["nft"]


@attrs.frozen
class MovedMachine:
    """A machine, and how its rules look when they are whole."""

    machine: Machine
    old: tuple[str, ...]

    def look(self) -> Sight:
        iptables, nft, status = self.machine.run(_LOOK).stdout.split("====\n")
        lines = tuple(without_counters(iptables))
        # after a move its tables are there, and let everything pass
        says = any(line.startswith("-A") or line.endswith("DROP") for line in lines)
        return Sight(lines if says else (), _rules_of(nft), json.loads(status))


def _rules_of(nft: str) -> tuple[str, ...]:
    """What `nft list ruleset` prints, without elements, which change by themselves."""
    found, inside = [], False
    for line in nft.splitlines():
        inside = inside or "elements = {" in line
        if not inside:
            found.append(line)
        inside = inside and "}" not in line
    return tuple(found)


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[MovedMachine]:
    """The machine, just started for the first time."""
    if kernel() is None or shutil.which(QEMU) is None or shutil.which("busybox") is None:
        pytest.skip("there is no qemu, no busybox or no kernel 6.1 here: tests/vm/install installs them")
    with Machine(tmp_path, FILES, ["netfilter-persistent.service"]) as machine:
        at_first = MovedMachine(machine, ())
        sight = at_first.look()
        assert (sight.nft, sight.says) == ((), ("not begun", True, False))
        assert len(sight.iptables) > 15
        yield attrs.evolve(at_first, old=sight.iptables)
