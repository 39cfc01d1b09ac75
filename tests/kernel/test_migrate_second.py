"""A host that was moved before, and moved for good: what has come to iptables since, and what is in force in nft."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from mover import NEW, OLD, Mover

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300), pytest.mark.usefixtures("own_directories")]

RULES = ("iptables-legacy -A INPUT -i lo -j ACCEPT", "iptables-legacy -P INPUT DROP")
LATER = {
    "another table": "iptables-legacy -t nat -A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE",
    "another family": "ip6tables-legacy -A INPUT -s 2001:db8::1 -j DROP",
    "the same table": "iptables-legacy -A FORWARD -s 192.0.2.1 -j DROP",
}


@pytest.fixture
def mover(namespace: Namespace) -> Mover:
    """A host whose few rules were moved, and the move confirmed."""
    for rule in RULES:
        namespace.run(rule)
    move = Mover(namespace)
    move("apply")
    move("confirm", "--no-config")
    return move


@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
def test_what_is_in_force_stays(mover: Mover, later: str) -> None:
    """Rules that come to iptables after it are no reason to lose nft's, nor the way back: it is said what to do."""
    mover.namespace.run(later)
    before = mover.nft()
    done = mover("apply", check=False)
    assert (done.returncode, "an earlier move was confirmed" in done.stderr) == (1, True), done.stderr
    assert "nfkeep-migrate rollback" in done.stderr
    assert mover.nft() == before
    assert "table ip filter {" in before
    assert mover.status()["state"] == "confirmed"
    assert "an earlier move was confirmed" in mover("plan", check=False).stdout


def test_all_together(mover: Mover) -> None:
    """What it says leads there: after the rollback both are moved, and nothing is out of force meanwhile."""
    mover.namespace.run(LATER["another table"])
    mover("rollback")
    assert mover.force() == OLD
    assert "-P INPUT DROP" in mover.namespace.run("iptables-legacy -S").stdout
    mover("apply")
    assert mover.force() == NEW
    assert "table ip filter {" in mover.nft()
    assert "masquerade" in mover.nft()


def test_gone_from_nft(mover: Mover) -> None:
    """Where nothing of it is left in nft, nothing is in the way."""
    mover.namespace.run("nft flush ruleset")
    for rule in RULES:
        mover.namespace.run(rule)
    mover("apply")
    assert mover.force() == NEW
