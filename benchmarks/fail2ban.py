"""fail2ban with its own actions and with nfkeep: how soon a ban has an effect, and what a restart does to all of them.

Run as root: python benchmarks/fail2ban.py [--bans 500] [--actions nfkeep-action.py …]. Each action gets a real
fail2ban, real clients and real packets, in network namespaces of its own, one after the other. `iptables` is the legacy
one throughout, so that the host has a connection limit to lose.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attrs

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from fail2ban_host import CLIENTS, OTHER_PORT, PORT, Host, a_host
from fail2ban_server import Probe, nfkeep_command

from nfkeep import Family
from nfkeep.integrations.fail2ban.install import plan
from nfkeep.testing import Connection, Gateway, abort_all, dial, wait_until

LIMIT = 5
BANS_BY_HAND = 1000
ACTIONS = {
    "iptables-multiport": f"iptables-multiport[port={PORT}, protocol=udp]",
    "iptables-xt_recent-echo": "iptables-xt_recent-echo",
    "nftables-multiport": f"nftables-multiport[port={PORT}, protocol=udp]",
    "iptables-ipset": f"iptables-ipset[type=multiport, port={PORT}, protocol=udp]",
    "nfkeep-action.py": f"nfkeep-action.py[port={PORT}, protocol=udp, backend=nft]",
    "nfkeep (command)": f"nfkeep[port={PORT}, protocol=udp, dbfile=%(dbfile)s]",
}


@attrs.frozen
class Measured:
    """What one action did. Times in seconds; `restart`: from the order to stop until the last ban is restored.

    `asked`, `answered`: questions of banned hosts during that, and how many were answered. `open_for`: from the first
    answer to the last. `lost`: bans that fail2ban lists after it and the kernel does not have. `let_in_…`: connections
    over the limit of an unrelated rule.
    """

    action: str
    log_to_ban: float
    let_in_by_bans: int
    restart: float
    asked: int
    answered: int
    open_for: float
    lost: int
    let_in_by_restart: int


def in_kernel(host: Host, action: str) -> int:
    """How many bans of jail `one` the kernel has."""

    def said(command: str) -> str:
        return host.net.gateway.run(command, check=False, env=host.fail2ban.environment).stdout

    if action.startswith("nfkeep"):
        return len(host.bans())
    if "multiport" in action and action.startswith("iptables"):
        return said("iptables -S f2b-one").count(" -s ")
    if "xt_recent" in action:
        return said("cat /proc/net/xt_recent/f2b-one").count("src=")
    if "ipset" in action:
        return said("ipset list f2b-one").count(" timeout ") - 1
    return said("nft list set inet f2b-table addr-set-one").count(",") + 1


def log_to_ban(host: Host) -> float:
    """The median over some hosts: from the log line to the last answer that the host got."""
    taken = []
    for number in range(1, CLIENTS - 1):
        probe = host.probe(host.client(number))
        assert wait_until(lambda probe=probe: probe.answered > 10)
        begun = time.monotonic()
        host.fail2ban.knock(host.client(number))
        assert wait_until(lambda probe=probe: time.monotonic() - probe.last_answer > 1.0, 60.0)
        probe.stop()
        taken.append(probe.last_answer - begun)
    return statistics.median(taken)


def let_in(host: Host) -> Callable[[], int]:
    """Fill a connection limit; what is returned tries it again, and says how many more were let in."""
    host.net.gateway.run(
        f"iptables-legacy -A INPUT -p tcp --syn --dport {OTHER_PORT} -m connlimit --connlimit-above {LIMIT}"
        " -j REJECT --reject-with tcp-reset"
    )
    server = host.net.gateway_address(Family.IPV4)
    admitted: list[Connection] = []

    def again() -> int:
        more = dial(host.net.client, Family.IPV4, "tcp", server, OTHER_PORT, 20, source=host.client(CLIENTS - 1))
        admitted.extend(more)
        return len(more)

    assert again() == LIMIT

    def over() -> int:
        count = again()
        abort_all(admitted)
        admitted.clear()
        time.sleep(0.05)  # connlimit looks for closed connections once per tick
        again()
        return count

    return over


def restored(host: Host, since: int) -> int:
    return host.fail2ban.said()[since:].count("Restore Ban")


def measure(action: str, bans: int) -> Measured:
    """All of one action."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Gateway.build(CLIENTS) as network,
        a_host(lambda *_: network, Path(folder)) as host,
    ):
        fail2ban = host.fail2ban
        plan(host.fail2ban.root, command=str(nfkeep_command(host.fail2ban.root))).carry_out()
        fail2ban.use_iptables("legacy")
        fail2ban.set_up({"one": f"dbfile = {fail2ban.database}\naction = {ACTIONS[action]}"}, bantime="86400")
        over_limit = let_in(host)

        fail2ban.start()
        delay = log_to_ban(host)
        by_hand = min(BANS_BY_HAND, bans)
        if action == "nfkeep (command)":
            by_hand = 20  # each starts two processes of Python
        fail2ban.client("set", "one", "banip", *(f"203.{n >> 8}.{n & 255}.1" for n in range(by_hand)), timeout=600.0)
        let_in_by_bans = over_limit()
        fail2ban.client("unban", "--all", timeout=600.0)
        assert wait_until(lambda: in_kernel(host, action) <= 1, 30.0, 0.1)
        fail2ban.stop(timeout=600.0)

        probed = [host.client(number) for number in range(1, CLIENTS - 1)]
        # fail2ban restores in the order of the text: those who ask have half of the others before them
        others = (f"{(1, 198)[n % 2]}.{18 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in range(bans - len(probed)))
        fail2ban.persist("one", [*others, *probed], bantime=86400)
        fail2ban.start()
        assert wait_until(lambda: restored(host, 0) >= bans, 3600.0, 0.5)
        assert wait_until(lambda: len(fail2ban.banned("one")) == bans, 60.0, 0.5)
        over_limit()  # as the first start may have changed it

        probe = Probe(host.net.client, probed, host.net.gateway_address(Family.IPV4), PORT)
        assert probe.wait_for(100)
        since, begun = len(fail2ban.said()), time.monotonic()
        fail2ban.stop(timeout=600.0)
        fail2ban.start(timeout=600.0)
        assert wait_until(lambda: restored(host, since) >= bans, 3600.0, 0.1)
        taken = time.monotonic() - begun
        assert wait_until(lambda: len(fail2ban.banned("one")) == bans, 60.0, 0.5)
        answered = probe.stop()
        open_for = probe.last_answer - probe.first_answer if answered else 0.0
        lost = bans - in_kernel(host, action)
        return Measured(action, delay, let_in_by_bans, taken, probe.asked, answered, open_for, lost, over_limit())


def kept(let_in_over: int) -> str:
    return "kept" if not let_in_over else f"reset (+{let_in_over})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end as well
    parser.add_argument("--bans", type=int, default=5000, help="persisted bans at the restart")
    parser.add_argument("--actions", nargs="+", choices=ACTIONS, default=list(ACTIONS))
    given = parser.parse_args()
    print(f"{given.bans} persisted bans, kernel {os.uname().release}; load {os.getloadavg()[0]:.1f}")
    print(
        "| action | log line to ban, ms | restart, s | answered while banned | let in for, s | bans lost"
        " | connlimit after bans | connlimit after restart |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for action in given.actions:
        done = measure(action, given.bans)
        print(
            f"| {action} | {done.log_to_ban * 1e3:.0f} | {done.restart:.1f} | {done.answered} of {done.asked}"
            f" | {done.open_for:.1f} | {done.lost} | {kept(done.let_in_by_bans)} | {kept(done.let_in_by_restart)} |",
            flush=True,
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as own:
        os.environ["XTABLES_LOCKFILE"] = f"{own}/xtables.lock"
        main()
