"""fail2ban bans through the command `nfkeep`, by the action nfkeep.conf: for a Python that cannot import nfkeep."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fail2ban_host import OTHER_PORT, PORT, Host, a_host
from fail2ban_server import is_installed, nfkeep_command

from nfkeep.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.testing.fixtures import GatewayFactory

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not is_installed(), reason="fail2ban is not installed"),
]


@pytest.fixture
def host(gateway_factory: GatewayFactory, tmp_path: Path) -> Iterator[Host]:
    """A host with the action installed by the command, for a Python that does not work at all."""
    with a_host(gateway_factory, tmp_path) as made:
        nfkeep_command(tmp_path)
        run(made, "install", "--root", str(tmp_path), "--python", "/bin/false")
        yield made
        end_commands(tmp_path)


def end_commands(root: Path) -> None:
    """End what waits in the background, for some seconds, for the database to change."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(root).encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGTERM)
        except OSError:  # it has ended
            continue


def run(host: Host, *words: str) -> str:
    """Run `nfkeep fail2ban`; what it printed."""
    command = [str(host.fail2ban.root / "bin" / "nfkeep"), "fail2ban", *words]
    done = host.net.gateway.run([*command], env=host.fail2ban.environment)
    return done.stdout + done.stderr


def jail(host: Host, **parameters: object) -> str:
    """The action of a jail."""
    given = {"port": PORT, "protocol": '"tcp,udp"', "dbfile": host.fail2ban.database, **parameters}
    return f"action = nfkeep[{', '.join(f'{name}={value}' for name, value in given.items())}]"


def test_a_log_line_bans_and_the_administrator_lifts(host: Host) -> None:
    """Ban on the jail's ports, over IPv4 and IPv6; lift one, and all."""
    one, two = host.client(1), host.client(2)
    host.fail2ban.set_up({"one": jail(host)})
    host.fail2ban.start()
    host.knock(one, two)
    assert [host.is_served(one), host.is_served(one, OTHER_PORT), host.is_served(host.client(3))] == [False, True, True]
    assert all(600 < left <= 660 for left in host.bans().values())
    host.fail2ban.client("set", "one", "unbanip", str(one))
    host.expect(two)
    host.fail2ban.client("unban", "--all")
    host.expect()


def test_a_stop_keeps_all_bans_and_a_start_restores_them_at_once(host: Host) -> None:
    """No answer gets out from before the stop to after the start, and a kernel that forgot is told everything anew."""
    banned = [host.client(number) for number in range(1, 5)]
    host.fail2ban.set_up({"one": jail(host)})
    host.fail2ban.persist("one", banned)
    host.fail2ban.start()
    host.expect(*banned)
    assert wait_until(lambda: len(host.fail2ban.banned("one")) == 4, 60.0)
    probe = host.probe(*banned)
    host.fail2ban.stop()
    assert probe.wait_for(100)
    host.fail2ban.start()
    assert wait_until(lambda: len(host.fail2ban.banned("one")) == 4, 60.0)
    assert probe.wait_for(100)
    assert probe.stop() == 0
    host.expect(*banned)

    # fail2ban knows a restored ban as one that it can lift
    host.fail2ban.client("set", "one", "unbanip", str(banned[0]))
    host.expect(*banned[1:])


def test_the_next_ban_brings_back_what_a_flush_took(host: Host) -> None:
    """After `nft flush ruleset` the list is made anew, as the jail wants it, with all bans of the database."""
    one, two = host.client(1), host.client(2)
    host.fail2ban.set_up({"one": jail(host)})
    host.fail2ban.persist("one", [one])
    host.fail2ban.start()
    host.expect(one)
    host.net.gateway.run("nft flush ruleset")
    host.fail2ban.knock(two)
    host.expect(one, two)
    assert [host.is_served(two), host.is_served(two, OTHER_PORT)] == [False, True]


def test_longer_bans_and_permanent_ones(host: Host) -> None:
    """`bantime.increment` reaches the kernel, and so does for ever."""
    host.fail2ban.set_up(
        {"one": jail(host), "two": f"bantime = -1\n{jail(host, type='allports')}"},
        bantime="20",
        bantime__increment="true",
        bantime__formula="ban.Time + 4",
    )
    host.fail2ban.persist("one", [host.client(1)], bantime=5)
    host.fail2ban.start()
    begun = time.time()
    host.fail2ban.knock(host.client(1))
    host.fail2ban.knock(host.client(1), jail="two")
    assert wait_until(lambda: host.ends(host.client(1)) - begun > 82, 60.0), host.bans()
    command_seconds = time.time() - begun
    assert host.ends(host.client(1)) - begun <= 85.5 + command_seconds
    assert wait_until(lambda: host.bans("two") == {str(host.client(1)): float("inf")}, 60.0), host.bans("two")
    assert not host.is_served(host.client(1), OTHER_PORT)


def test_status_tells_of_jails_and_of_what_does_not_work(host: Host) -> None:
    """The jails as fail2ban reads them, and why there is no Python action."""
    host.fail2ban.set_up({"one": jail(host), "two": f"action = nfkeep-action.py[port={PORT}, name=second]"})
    command = [str(host.fail2ban.root / "bin" / "nfkeep"), "fail2ban", "status", "--json"]
    where = ["--root", str(host.fail2ban.root), "--python", "/bin/false"]
    done = host.net.gateway.run([*command, *where], check=False)
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert [fault.split(":")[0] for fault in told["faults"]] == ["/bin/false cannot import nfkeep"]
    assert [(each["jail"], each["list_name"]) for each in told["jails"]] == [("one", "f2b-one"), ("two", "f2b-second")]
