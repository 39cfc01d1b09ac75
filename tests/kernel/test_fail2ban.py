"""fail2ban bans through nfkeep's Python action: real servers, real log lines, real packets."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from fail2ban_host import CLIENTS, OTHER_PORT, PORT, Host, a_host
from fail2ban_server import is_installed

import nfkeep
from nfkeep import Family
from nfkeep.integrations.fail2ban.install import PYTHON_ACTION, plan
from nfkeep.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.testing.fixtures import Dialer, GatewayFactory

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not is_installed(), reason="fail2ban is not installed"),
]

JAIL = f'action = nfkeep-action.py[port={PORT}, protocol="tcp", backend=nft]'


@pytest.fixture(scope="module")
def action() -> str:
    """The text of the action file, if the Python that runs fail2ban can do something with it."""
    installed = plan(Path("/"), command="/not/used")
    if not installed.trial.works:
        pytest.skip(f"fail2ban's own Python cannot import the nfkeep under test: {installed.trial.reason}")
    return next(file.text for file in installed.files if file.path.name == PYTHON_ACTION)


@pytest.fixture
def host(gateway_factory: GatewayFactory, tmp_path: Path, action: str) -> Iterator[Host]:
    """A host with the action installed."""
    with a_host(gateway_factory, tmp_path) as made:
        (made.fail2ban.config / "action.d" / PYTHON_ACTION).write_text(action)
        yield made


def test_a_log_line_bans_on_the_ports_of_the_jail(host: Host) -> None:
    """Who is in the log is cut off from the jail's port, over IPv4 and IPv6; from other ports, and others, not."""
    bad, good = host.client(1), host.client(2)
    bad6 = host.client(1, Family.IPV6)
    host.fail2ban.set_up({"one": JAIL})
    host.fail2ban.start()
    assert host.is_served(bad)
    assert host.is_served(bad6)

    host.knock(bad, bad6)

    served = [host.is_served(each) for each in (bad, bad6, good)]
    assert served == [False, False, True]
    assert host.is_served(bad, OTHER_PORT)
    assert host.fail2ban.banned("one") == {str(bad), str(bad6)}


def test_the_kernel_keeps_a_ban_a_minute_longer_than_fail2ban(host: Host) -> None:
    """fail2ban lifts a ban itself; the kernel's own timeout is there if it cannot."""
    host.fail2ban.set_up({"one": JAIL}, bantime="100")
    host.fail2ban.start()
    host.knock(host.client(1))
    assert 150 < host.bans()[str(host.client(1))] <= 161


def test_a_permanent_ban_has_no_timeout(host: Host) -> None:
    """`bantime = -1` is for ever in the kernel too."""
    host.fail2ban.set_up({"one": JAIL}, bantime="-1")
    host.fail2ban.start()
    host.knock(host.client(1))
    assert host.bans() == {str(host.client(1)): math.inf}


def test_an_expired_ban_is_lifted_by_fail2ban(host: Host) -> None:
    """When the ban time is over, the address is served again, and is out of the list at once."""
    host.fail2ban.set_up({"one": JAIL}, bantime="2")
    host.fail2ban.start()
    host.knock(host.client(1))
    host.expect()
    assert host.is_served(host.client(1))


def test_the_administrator_lifts_one_ban_and_all(host: Host) -> None:
    """`unbanip` lifts that ban, `unban --all` all of them; a ban by hand is one as well, also of a network."""
    one, two, three = (host.client(number) for number in (1, 2, 3))
    host.fail2ban.set_up({"one": JAIL})
    host.fail2ban.start()
    host.knock(one, two)
    host.fail2ban.client("set", "one", "unbanip", str(one))
    host.expect(two)
    host.fail2ban.client("set", "one", "banip", str(three), "198.51.100.0/24")
    host.expect(two, three, "198.51.100.0/24")
    host.fail2ban.client("unban", "--all")
    host.expect()


def test_who_comes_again_is_banned_for_longer(host: Host) -> None:
    """`bantime.increment`: the prolonged time reaches the kernel."""
    host.fail2ban.set_up(
        {"one": JAIL.replace("]", ", grace=1]")},
        bantime="20",
        bantime__increment="true",
        bantime__formula="ban.Time + 4",
    )
    host.fail2ban.persist("one", [host.client(1)], bantime=5)  # it is over, and remembered
    host.fail2ban.start()
    begun = time.time()
    host.fail2ban.knock(host.client(1))
    assert wait_until(lambda: 22 < host.ends(host.client(1)) - begun <= 25.5, 10.0), host.fail2ban.said()


@pytest.mark.parametrize("backend", ["ipset", "recent"])
def test_other_parts_of_the_kernel_keep_bans_too(host: Host, backend: str) -> None:
    """With `backend=`; xt_recent has one timeout for all, which then is that of the jail's longest ban."""
    host = attrs.evolve(host, backend=backend)
    one, two = host.client(1), host.client(2)
    host.fail2ban.set_up({"one": JAIL.replace("nft", backend)})
    host.fail2ban.start()
    host.knock(one, two)
    assert not host.is_served(one)
    host.fail2ban.client("set", "one", "unbanip", str(one))
    host.expect(two)
    host.fail2ban.stop()
    host.fail2ban.start()
    assert wait_until(lambda: host.fail2ban.banned("one") == {str(two)})
    host.expect(two)
    assert [host.is_served(one), host.is_served(two)] == [True, False]


def test_two_jails_have_two_lists(host: Host) -> None:
    """Each jail bans from its own ports, and lifts only its own bans."""
    bad = host.client(1)
    host.fail2ban.set_up({"one": JAIL, "two": JAIL.replace(str(PORT), str(OTHER_PORT))})
    host.fail2ban.start()
    host.knock(bad, jail="two")
    assert [host.is_served(bad), host.is_served(bad, OTHER_PORT)] == [True, False]
    host.knock(bad, jail="one")
    assert not host.is_served(bad)
    host.fail2ban.client("set", "two", "unbanip", str(bad))
    host.expect(jail="two")
    assert [host.is_served(bad), host.is_served(bad, OTHER_PORT)] == [False, True]


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_bans_outlive_fail2ban(host: Host, how: str) -> None:
    """After an orderly stop, and after kill -9, all is in force; the next start adopts it, and can lift it."""
    bad = host.client(1)
    host.fail2ban.set_up({"one": JAIL})
    host.fail2ban.start()
    host.knock(bad)
    assert wait_until(lambda: host.fail2ban.has_persisted(bad))
    getattr(host.fail2ban, how)()
    host.expect(bad)
    assert not host.is_served(bad)

    host.fail2ban.start()
    assert wait_until(lambda: str(bad) in host.fail2ban.banned("one"))
    host.expect(bad)
    host.fail2ban.client("set", "one", "unbanip", str(bad))
    host.expect()


def test_no_answer_gets_out_during_a_restart(host: Host) -> None:
    """300 persisted bans: from before the stop until all are restored, those who are banned get no answer at all."""
    many = [f"198.51.{100 + n // 250}.{n % 250}" for n in range(300 - CLIENTS + 1)]
    banned = [host.client(number) for number in range(1, CLIENTS)]
    host.fail2ban.set_up({"one": JAIL.replace("tcp", "udp")})
    host.fail2ban.persist("one", [*many, *banned])
    host.fail2ban.start()
    host.expect(*many, *banned)

    probe = host.probe(*banned)
    assert probe.wait_for(100)
    host.fail2ban.stop()
    assert probe.wait_for(100)
    host.fail2ban.start()
    assert wait_until(lambda: len(host.fail2ban.banned("one")) == 300)
    assert probe.wait_for(100)
    assert probe.stop() == 0
    host.expect(*many, *banned)


def test_after_a_reboot_all_bans_are_in_force_at_once(host: Host) -> None:
    """The kernel knows of nothing: all of the database is put in force in one go, not ticket by ticket."""
    many = [f"198.51.{100 + n // 250}.{n % 250}" for n in range(300)]
    host.fail2ban.set_up({"one": JAIL})
    host.fail2ban.persist("one", many)
    host.net.gateway.run("nft flush ruleset")
    host.fail2ban.start()
    host.expect(*many)
    assert "[one] 300 bans of fail2ban put in force" in host.fail2ban.said()


def test_reload_keeps_all_bans_and_changes_the_ports_in_place(host: Host) -> None:
    """After a reload with another port the same bans are in force, for that port; nobody was let in meanwhile."""
    bad = host.client(1)
    host.fail2ban.set_up({"one": JAIL.replace("tcp", "udp,tcp")})
    host.fail2ban.start()
    host.knock(bad)
    probe = host.probe(bad)
    assert probe.wait_for(50)
    host.fail2ban.client("reload")
    assert probe.wait_for(50)
    assert probe.stop() == 0
    assert host.fail2ban.banned("one") == {str(bad)}

    host.fail2ban.set_up({"one": JAIL.replace(str(PORT), str(OTHER_PORT))})
    host.fail2ban.client("reload")
    host.expect(bad)
    assert [host.is_served(bad), host.is_served(bad, OTHER_PORT)] == [True, False]
    host.fail2ban.knock(host.client(2))
    host.expect(bad, host.client(2))


def test_reload_with_impossible_parameters_changes_nothing(host: Host) -> None:
    """A mistake in jail.local is told in the log, and the bans stay in force."""
    bad = host.client(1)
    host.fail2ban.set_up({"one": JAIL})
    host.fail2ban.start()
    host.knock(bad)
    host.fail2ban.set_up({"one": JAIL.replace("]", ", blocktype=RETURN]")})
    host.fail2ban.client("reload")
    assert "blocktype is 'RETURN'" in host.fail2ban.said()
    host.fail2ban.knock(host.client(2))
    host.expect(bad, host.client(2))


def test_reload_moves_the_bans_to_a_list_of_another_name(host: Host) -> None:
    """With `list=` the bans go along, those that only the kernel knew too, and the old list is taken down."""
    bad = host.client(1)
    host.fail2ban.set_up({"one": JAIL})
    host.fail2ban.start()
    host.knock(bad)
    with host.net.gateway, nfkeep.BanList("f2b-one", "nft") as bans:
        bans.ban("198.51.100.7", 1000)
    host.fail2ban.set_up({"one": JAIL.replace("]", ", list=f2b-other]")})
    host.fail2ban.client("reload")
    host.expect(bad, "198.51.100.7", jail="other")
    with host.net.gateway:
        assert not nfkeep.BanList("f2b-one", "nft").exists()


def test_an_action_that_a_reload_takes_out_leaves_nothing(host: Host) -> None:
    """A jail that goes on without this action lifts its bans, and the list goes."""
    host.fail2ban.set_up({"one": JAIL + "\n         nfkeep-action.py[actname=second, name=second, port=1]"})
    host.fail2ban.start()
    host.knock(host.client(1))
    host.expect(host.client(1), jail="second")
    host.fail2ban.set_up({"one": JAIL})
    host.fail2ban.client("reload")
    host.expect(host.client(1))
    with host.net.gateway:
        assert not nfkeep.BanList("f2b-second", "nft").exists()


def test_a_flushed_ruleset_comes_back_with_all_bans(host: Host) -> None:
    """`nft flush ruleset` is noticed without any new ban, and put right."""
    bad = host.client(1)
    host.fail2ban.set_up({"one": JAIL.replace("]", ", check=0.2]")})
    host.fail2ban.start()
    host.knock(bad)
    host.net.gateway.run("nft flush ruleset")
    host.expect(bad)
    assert not host.is_served(bad)
    assert "another program has removed the ban list" in host.fail2ban.said()


def test_a_ban_after_a_flush_brings_the_others_back(host: Host) -> None:
    """Where nobody looks in between, the next ban does."""
    one, two = host.client(1), host.client(2)
    host.fail2ban.set_up({"one": JAIL.replace("]", ", check=0]")})
    host.fail2ban.start()
    host.knock(one)
    host.net.gateway.run("nft flush ruleset")
    host.fail2ban.knock(two)
    host.expect(one, two)


def test_whom_the_jail_is_told_to_ignore_is_not_adopted(host: Host) -> None:
    """`ignoreip` of an address that is banned, and a restart, end its ban, as with fail2ban's own actions."""
    one, two = host.client(1), host.client(2)
    host.fail2ban.set_up({"one": JAIL})
    host.fail2ban.start()
    host.knock(one, two)
    host.fail2ban.stop()
    host.fail2ban.set_up({"one": JAIL}, ignoreip=str(one))
    host.fail2ban.start()
    host.expect(two)


def test_the_allow_list_wins(host: Host) -> None:
    """An address in `allow` is never banned, and the log says why."""
    one, two = host.client(1), host.client(2)
    host.fail2ban.set_up({"one": JAIL.replace("]", f", allow={one}]")})
    host.fail2ban.start()
    host.fail2ban.knock(one, two)
    host.expect(two)
    assert host.is_served(one)
    assert wait_until(lambda: f"{one} is not banned: it is in the allow list" in host.fail2ban.said())


def test_bans_leave_connection_counts_alone(host: Host, dialer: Dialer) -> None:
    """A connlimit rule of the host goes on counting through bans, a restart and a reload."""
    good = host.client(7)
    host.net.gateway.run(
        f"iptables-legacy -A INPUT -p tcp --syn --dport {PORT} -m connlimit --connlimit-above 5 -j REJECT"
        " --reject-with tcp-reset"
    )
    host.fail2ban.set_up({"one": JAIL})
    host.fail2ban.start()
    server = host.net.gateway_address(Family.IPV4)
    assert len(dialer(host.net.client, Family.IPV4, "tcp", server, PORT, 8, source=good)) == 5
    host.knock(*(host.client(number) for number in range(1, 5)))
    host.fail2ban.client("reload")
    host.fail2ban.stop()
    host.fail2ban.start()
    assert dialer(host.net.client, Family.IPV4, "tcp", server, PORT, 8, source=good) == []
