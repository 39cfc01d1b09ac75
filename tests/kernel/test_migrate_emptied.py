"""A move that others have interfered with: tables emptied, loaded out of action, or made under the same names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from mover import NEW, OLD, Mover, without_counters

from nfkeep.migrate.live import record

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("own_directories")]

NONE = {"iptables": False, "nft": False}
RULES = """*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""
EMPTYING = ("iptables-legacy -P INPUT ACCEPT", "iptables-legacy -F", "iptables-legacy -X")


@pytest.fixture
def mover(namespace: Namespace) -> Mover:
    """A host that lets in what its rules name."""
    namespace.run("iptables-legacy-restore", input=RULES)
    return Mover(namespace)


def boot(mover: Mover, rules: str = "") -> None:
    """Nothing is in force any more but what is loaded then, and the record is of an earlier boot."""
    mover.namespace.run("nft flush ruleset")
    mover.namespace.run("iptables-legacy-restore", input=rules or "*filter\n:INPUT ACCEPT\nCOMMIT\n")
    with mover.namespace:
        place = record.folder() / "record.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "boot": "an earlier one"}))


@pytest.mark.parametrize("more", ["", "iptables-legacy -A INPUT -s 203.0.113.9 -j DROP"], ids=["emptied", "and used"])
def test_emptied_tables(mover: Mover, more: str) -> None:
    """`ufw disable` after the move: the rollback loads the rules from the disk, and tells it, and what others added."""
    before = mover.legacy()
    mover("apply")
    for command in (*EMPTYING, more):
        if command:
            mover.namespace.run(command)
    assert mover.force() == {"iptables": bool(more), "nft": True}
    told = mover("rollback").stdout
    assert "somebody has emptied it" in told
    assert ("203.0.113.9" in told) == bool(more)
    assert (mover.force(), mover.nft()) == (OLD, "")
    assert without_counters(mover.legacy()) == without_counters(before)


def test_a_rule_deleted_behind_the_one_that_parks(mover: Mover) -> None:
    """What somebody takes out of a table that is out of action stays out."""
    mover("apply")
    mover.namespace.run("iptables-legacy -D INPUT -i lo -j ACCEPT")
    told = mover("rollback").stdout
    assert "emptied" not in told
    assert "-i lo" not in mover.legacy()
    assert mover.force() == OLD


def test_nobody_loads_rules_at_boot(mover: Mover) -> None:
    """The rollback does, as it says."""
    before = mover.legacy()
    mover("apply")
    boot(mover)
    assert mover.force() == NONE
    mover("rollback")
    assert mover.force() == OLD
    assert without_counters(mover.legacy()) == without_counters(before)


def test_rules_of_a_boot_script(mover: Mover) -> None:
    """They are as the script has them by now: nothing is loaded over them."""
    mover("apply")
    boot(mover, RULES.replace("22", "23"))
    mover("rollback")
    assert "--dport 23" in mover.legacy()
    assert "--dport 22" not in mover.legacy()


@pytest.mark.parametrize("first", ["applied", "rolled back", "not begun"])
def test_tables_saved_out_of_action(mover: Mover, first: str) -> None:
    """Somebody has saved them so, and loads them at boot: status tells, no move starts from them, rollback mends it."""
    before = mover.legacy()
    mover("apply")
    saved = mover.namespace.run("iptables-legacy-save").stdout
    if first != "applied":
        mover("rollback")
    boot(mover, saved)
    if first == "not begun":
        with mover.namespace:
            record.forget()
    assert mover.force() == NONE
    assert "out of action. Call: nfkeep-migrate rollback" in mover("status").stdout
    done = mover("apply", "--accept-losses", check=False)
    assert (done.returncode, "call `nfkeep-migrate rollback` first" in done.stderr) == (1, True)
    mover("rollback")
    assert mover.force() == OLD
    assert without_counters(mover.legacy()) == without_counters(before)


def test_a_table_of_the_same_name(mover: Mover) -> None:
    """nft was emptied, and iptables-nft has made a table there: that is not the move's, and nothing to confirm."""
    mover("apply")
    mover.namespace.run("nft flush ruleset")
    mover.namespace.run("iptables-nft -A INPUT -s 203.0.113.5 -j DROP")
    assert mover.force() == NONE
    done = mover("confirm", check=False)
    assert (done.returncode, "others in their place" in done.stderr) == (1, True)
    mover("rollback")
    assert mover.force() == OLD


def test_the_same_rules_loaded_anew(mover: Mover) -> None:
    """These are the move's, whatever else somebody has put in."""
    mover("apply")
    rules = mover.nft()
    mover.namespace.run("nft flush ruleset")
    mover.namespace.run("nft -f -", input=rules)
    mover.namespace.run("nft insert rule ip filter INPUT ip saddr 203.0.113.5 drop")
    assert mover.force() == NEW
    mover("confirm")
    assert mover.force() == NEW


def test_emptied_by_nft(mover: Mover) -> None:
    """The table is there, and none of its rules."""
    mover("apply")
    mover.namespace.run("nft flush table ip filter")
    assert mover.force() == NONE
    assert mover("confirm", check=False).returncode == 1


def test_a_table_in_force_again(mover: Mover) -> None:
    """Of two tables, somebody has loaded one anew: status names it."""
    mover.namespace.run("iptables-legacy -t nat -A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE")
    mover("apply")
    mover.namespace.run("iptables-legacy -F")
    mover.namespace.run("iptables-legacy -A INPUT -j DROP")
    assert mover.force() == {"iptables": True, "nft": True}
    assert "Of iptables these tables are in force: IPv4 filter\n" in mover("status").stdout
