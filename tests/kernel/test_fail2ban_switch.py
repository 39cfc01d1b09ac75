"""Hosts that fail2ban looks after in an older way are moved to nfkeep, and at no moment is a ban without effect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fail2ban_host import PORT, Host, a_host
from fail2ban_server import is_installed, nfkeep_command

from nfkeep import Family
from nfkeep.integrations.fail2ban.install import plan
from nfkeep.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.testing.fixtures import Dialer, GatewayFactory

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not is_installed(), reason="fail2ban is not installed"),
]

NEW = f"action = nfkeep-action.py[port={PORT}, protocol=udp, backend=nft]"
XT_RECENT = "action = iptables-xt_recent-echo"
MULTIPORT = f"action = iptables-multiport[port={PORT}, protocol=udp]"
NFTABLES = f"action = nftables-multiport[port={PORT}, protocol=udp]"


@pytest.fixture
def host(gateway_factory: GatewayFactory, tmp_path: Path) -> Iterator[Host]:
    """A host on which nfkeep's actions are installed and not used yet."""
    installed = plan(tmp_path, command=str(nfkeep_command(tmp_path)))
    with a_host(gateway_factory, tmp_path) as made:
        if not installed.trial.works:
            pytest.skip(f"fail2ban's own Python cannot import the nfkeep under test: {installed.trial.reason}")
        installed.carry_out()
        yield made


def adopt(host: Host, *options: str) -> str:
    """Run `nfkeep fail2ban adopt`; what it printed."""
    command = [str(host.fail2ban.root / "bin" / "nfkeep"), "fail2ban", "adopt", "--config", str(host.fail2ban.config)]
    return host.net.gateway.run([*command, *options], env=host.fail2ban.environment).stdout


@pytest.mark.parametrize("world", ["legacy", "nft"])
def test_xt_recent_is_taken_over_without_losing_a_ban(host: Host, dialer: Dialer, world: str) -> None:
    """`adopt --remove-old` and a restart: every ban goes over, nobody gets an answer, connlimit goes on counting."""
    banned = [host.client(number) for number in range(1, 5)]
    hidden, good = host.client(5), host.client(7)
    server = host.net.gateway_address(Family.IPV4)
    host.fail2ban.use_iptables(world)
    host.net.gateway.run(
        f"iptables-legacy -A INPUT -p tcp --syn --dport {PORT} -m connlimit --connlimit-above 5 -j DROP"
    )
    host.fail2ban.set_up({"one": XT_RECENT})
    host.fail2ban.start()
    host.fail2ban.knock(*banned)
    entries = ["cat", "/proc/net/xt_recent/f2b-one"]
    assert wait_until(lambda: host.net.gateway.run(entries, check=False).stdout.count("src=") == 4, 10.0)
    # one that fail2ban knows nothing of
    host.net.gateway.run(["sh", "-c", f"echo +{hidden} > /proc/net/xt_recent/f2b-one"])
    admitted = dialer(host.net.client, Family.IPV4, "tcp", server, PORT, 8, source=good, timeout=0.5)
    assert len(admitted) == 5

    probe = host.probe(*banned, hidden)
    assert probe.wait_for(100)
    host.fail2ban.set_up({"one": NEW})
    said = adopt(host, "--remove-old")
    assert "removed the xt_recent list f2b-one with its rules" in said
    assert host.net.gateway.run(entries, check=False).returncode == 1
    host.expect(*banned, hidden)
    host.fail2ban.stop()
    assert probe.wait_for(100)
    host.fail2ban.start()
    assert wait_until(lambda: len(host.fail2ban.banned("one")) == 4)
    assert probe.wait_for(100)
    assert probe.stop() == 0
    host.expect(*banned, hidden)
    assert all(500 < left <= 660 for left in host.bans().values())

    assert dialer(host.net.client, Family.IPV4, "tcp", server, PORT, 8, source=good, timeout=0.5) == []


@pytest.mark.parametrize("name", ["f2b-one", "fail2ban-one"])
def test_a_list_that_was_left_behind_is_taken_over_at_the_start(host: Host, name: str) -> None:
    """Where the old rule and list are still there, the new action copies them by itself, and leaves them alone."""
    bad = host.client(1)
    rule = f"INPUT -m recent --update --seconds 3600 --name {name} -j DROP"
    host.net.gateway.run(f"iptables-legacy -I {rule}")
    host.net.gateway.run(["sh", "-c", f"echo +{bad} > /proc/net/xt_recent/{name}"])
    host.fail2ban.set_up({"one": NEW}, bantime="1000")
    probe = host.probe(bad)
    host.fail2ban.start()
    host.expect(bad)
    assert 900 < host.bans()[str(bad)] <= 1060  # not longer than any ban of the jail
    assert f"1 bans taken over from xt_recent list {name}" in host.fail2ban.said()
    host.net.gateway.run(f"iptables-legacy -D {rule}")
    assert probe.wait_for(50)
    assert probe.stop() == 0


def in_rules(host: Host) -> set[str]:
    """The words of all rules and sets that are in force."""
    listings = ("nft list ruleset", "iptables-legacy-save")
    return {word for each in listings for word in re.split(r"[\s,/]+", host.net.gateway.run(each).stdout)}


@pytest.mark.parametrize("old", [MULTIPORT, NFTABLES], ids=["iptables-multiport", "nftables-multiport"])
def test_other_actions_are_followed_without_a_gap(host: Host, old: str) -> None:
    """`adopt` before the restart: the bans are those of fail2ban's database, and the old action takes its own down."""
    banned = [host.client(number) for number in range(1, 5)]
    host.fail2ban.set_up({"one": old})
    host.fail2ban.start()
    host.fail2ban.knock(*banned)
    assert wait_until(lambda: all(map(host.fail2ban.has_persisted, banned)), 10.0)
    assert wait_until(lambda: len(host.fail2ban.banned("one")) == 4)
    assert wait_until(lambda: all(each in in_rules(host) for each in map(str, banned)))  # fail2ban says so before

    probe = host.probe(*banned)
    host.fail2ban.set_up({"one": NEW})
    adopt(host)
    host.expect(*banned)
    host.fail2ban.stop()
    host.fail2ban.start()
    assert wait_until(lambda: len(host.fail2ban.banned("one")) == 4)
    assert probe.wait_for(100)
    assert probe.stop() == 0
    assert "f2b" not in host.net.gateway.run("nft list tables").stdout


def test_a_reload_changes_actions_without_a_gap(host: Host) -> None:
    """Nothing but a reload: the new action has all bans before the old one goes, and stays with the jail."""
    banned = [host.client(number) for number in range(1, 5)]
    host.fail2ban.set_up({"one": NFTABLES})
    host.fail2ban.start()
    host.fail2ban.knock(*banned)
    assert wait_until(lambda: len(host.fail2ban.banned("one")) == 4)
    assert wait_until(lambda: all(each in in_rules(host) for each in map(str, banned)))

    probe = host.probe(*banned)
    host.fail2ban.set_up({"one": NEW})
    host.fail2ban.client("reload")
    host.expect(*banned)
    assert probe.wait_for(100)
    assert probe.stop() == 0
    host.fail2ban.knock(host.client(5))
    host.expect(*banned, host.client(5))
