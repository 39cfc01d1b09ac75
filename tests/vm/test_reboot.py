"""What is in force after a reboot: before the move is confirmed, after it, and after a rollback; and the watch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nfkeep.testing import wait_until

if TYPE_CHECKING:
    from conftest import MovedMachine

pytestmark = pytest.mark.timeout(3600)


def test_reboots(moved: MovedMachine) -> None:
    """iptables' rules come back until the move is confirmed, nft's stay from then on; and after a rollback too."""
    machine = moved.machine
    machine.run("nfkeep-migrate apply")
    sight = moved.look()
    assert sight.says == ("applied", False, True)
    new = sight.nft
    machine.reboot()
    sight = moved.look()
    assert (sight.iptables, sight.nft, sight.says) == (moved.old, (), ("applied", True, False))

    machine.run("nfkeep-migrate apply")
    machine.run("nfkeep-migrate confirm")
    machine.reboot()
    sight = moved.look()
    assert (sight.iptables, sight.nft, sight.says) == ((), new, ("confirmed", False, True))
    enabled = machine.run("systemctl is-enabled nftables netfilter-persistent", check=False).stdout.split()
    assert enabled == ["enabled", "disabled"]

    machine.run("nfkeep-migrate rollback")
    sight = moved.look()
    assert (sight.iptables, sight.nft, sight.says) == (moved.old, (), ("rolled back", True, False))
    machine.reboot()
    sight = moved.look()
    assert (sight.iptables, sight.nft, sight.says) == (moved.old, (), ("rolled back", True, False))
    enabled = machine.run("systemctl is-enabled nftables netfilter-persistent", check=False).stdout.split()
    assert enabled == ["disabled", "enabled"]


def test_the_watch_is_a_unit_of_its_own(moved: MovedMachine) -> None:
    """It undoes the move when nobody confirms, though all of the cgroup that has begun the move is killed."""
    machine = moved.machine
    machine.run("mkfifo /run/moved")
    session = "nfkeep-migrate apply --confirm 20 >/run/said; echo moved >/run/moved; exec sleep 3600"
    machine.run(f"systemd-run --unit=session --setenv=PATH=$PATH sh -c '{session}'; read said </run/moved")
    assert moved.look().says == ("applied", False, True)
    machine.run("systemctl kill --signal=KILL session.service")
    assert wait_until(lambda: moved.look().says == ("rolled back", True, False), timeout=600.0)
    sight = moved.look()
    assert (sight.iptables, sight.nft) == (moved.old, ())
