"""A host whose rules were made by iptables-nft: moved to nft's own, and back, with what the rules know."""

from __future__ import annotations

import os
import random
import re
import socket
import time
from typing import TYPE_CHECKING

import pytest
from mover import MIGRATE, NEW, OLD, Mover, without_counters
from rounds import rounds

from nfkeep import Family, NfkeepError
from nfkeep.migrate.live import copies, cutover, record
from nfkeep.migrate.live.host import read_host
from nfkeep.migrate.live.record import APPLYING, Record

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600), pytest.mark.usefixtures("own_directories")]

RULES = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:f2b-sshd - [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j f2b-sshd
-A INPUT -p udp -m udp --dport 7 -m recent --set --name seen --mask {mask} --rsource -j ACCEPT
-A INPUT -p udp -m udp --dport 9 -m limit --limit 5/minute -j ACCEPT
-A INPUT -p tcp -m tcp --dport 873 -m connlimit --connlimit-above 10 -j REJECT
-A f2b-sshd -s {banned} -j REJECT
-A f2b-sshd -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o eth9 -j MASQUERADE
COMMIT
"""
SENT = 10


@pytest.fixture
def mover(namespace: Namespace) -> Mover:
    """A host with rules of iptables-nft in both families."""
    load(namespace)
    return Mover(namespace)


def load(namespace: Namespace) -> None:
    """Load them."""
    v6 = RULES.format(mask="ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", banned="fd00::9/128")
    namespace.run(["iptables-nft-restore"], input=RULES.format(mask="255.255.255.255", banned="192.0.2.9/32"))
    namespace.run(["ip6tables-nft-restore"], input=v6.replace("seen", "seen6"))


def send(namespace: Namespace, number: int = SENT) -> None:
    """Datagrams of 100 bytes to port 7."""
    with namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(number):
            sender.sendto(bytes(72), ("127.0.0.1", 7))


def test_there_and_back(mover: Mover) -> None:
    """Its tables are nft's own then, and the legacy ones empty; after the rollback its rules are there again, too."""
    send(mover.namespace)
    before = mover.legacy("nft", "-c")
    assert f"[{SENT}:{SENT * 100}] -A INPUT -p udp -m udp --dport 7" in before
    mover("apply", "--accept-losses")
    assert (mover.force(), mover.legacy("nft")) == (NEW, INCOMPATIBLE)
    nft = mover.nft()
    assert "xt match" not in nft
    assert f"counter packets {SENT} bytes {SENT * 100} accept" in nft
    assert "127.0.0.1 expires" in nft or "elements = { 127.0.0.1" in nft
    mover("rollback")
    assert mover.force() == OLD
    assert lines(mover.legacy("nft", "-c")) == lines(before)
    assert "-A" not in mover.legacy()
    assert "xt match" in mover.nft()
    with mover.namespace, open("/proc/thread-self/net/xt_recent/seen") as seen:
        assert [line.split()[0] for line in seen] == ["src=127.0.0.1"]


INCOMPATIBLE = "".join(f"# Table `{name}' is incompatible, use 'nft' tool.\n" for name in ("filter", "nat") * 2)


def lines(text: str) -> list[str]:
    """What iptables-save prints, without its times."""
    return [line for line in text.splitlines() if line[:1] != "#"]


def test_confirm(mover: Mover) -> None:
    """Nothing of iptables is left, and there is nothing to move; a late rollback makes the tables again."""
    before = without_counters(mover.legacy("nft"))
    mover("apply", "--accept-losses")
    mover("confirm")
    assert (mover.force(), mover.legacy("nft")) == (NEW, INCOMPATIBLE)
    assert "-A" not in mover.legacy()
    assert "no rules of iptables" in mover("plan", check=False).stdout
    mover("rollback")
    assert mover.force() == OLD
    assert without_counters(mover.legacy("nft")) == before
    assert "-A" not in mover.legacy()
    mover("apply", "--accept-losses")
    assert mover.force() == NEW


def test_verify(mover: Mover) -> None:
    """Before the move and after it."""
    for command in ("plan", "apply"):
        mover(command, *(["--accept-losses"] if command == "apply" else []), check=False)
        assert ", 0 treated differently" in mover("verify", "--live", "--packets", "100").stdout


def test_tables_that_say_nothing(namespace: Namespace) -> None:
    """`iptables -L` of that variant makes some: they are not in the way of rules in legacy tables."""
    for command in (
        "iptables-nft -A INPUT -j ACCEPT", "iptables-nft -F", "iptables-legacy -A INPUT -s 192.0.2.1 -j DROP",
    ):  # fmt: skip
        namespace.run(command)
    mover = Mover(namespace)
    mover("apply")
    assert mover.force() == NEW
    assert "192.0.2.1" in mover.nft()
    mover("rollback")
    assert (mover.force(), mover.nft()) == (OLD, "")


def test_somebody_changes_them_meanwhile(mover: Mover) -> None:
    """What was read is not what would be lost: it is told, before anything goes."""
    with mover.namespace:
        host = read_host()
        replaced = tuple((*each, host.nft_tables[each]) for each in host.iptables_nft)
        done = Record(APPLYING, replaced=replaced)
        assert set(copies.last_rules(host, done)) == set(Family)
        mover.namespace.run("iptables-nft -A INPUT -s 192.0.2.77 -j DROP")
        with pytest.raises(NfkeepError, match="changed the IPv4 rules"):
            copies.last_rules(host, done)
        mover.namespace.run("ip6tables-nft -D INPUT 1")
        mover.namespace.run("nft delete table ip nat")
        with pytest.raises(NfkeepError, match="anew"):
            copies.last_rules(host, done)


def test_after_a_boot_without_confirmation(mover: Mover) -> None:
    """What the boot scripts have loaded is in force, status says so; a rollback or a move can follow."""
    before = without_counters(mover.legacy("nft"))
    mover("apply", "--accept-losses")
    with mover.namespace:
        path = record.folder() / "record.json"
    path.write_text(re.sub(r'"boot": "[^"]*"', '"boot": "another"', path.read_text()))
    mover.namespace.run("nft flush ruleset")
    for name in ("iptables", "ip6tables"):
        for table in ("filter", "nat"):
            mover.namespace.run([f"{name}-legacy", "-t", table, "-F"])
            mover.namespace.run([f"{name}-legacy", "-t", table, "-X"])
        mover.namespace.run([f"{name}-legacy", "-P", "FORWARD", "ACCEPT"])
    load(mover.namespace)
    assert (mover.status()["state"], mover.force()) == ("applied", OLD)
    mover("rollback")
    assert (mover.status()["state"], mover.force()) == ("rolled back", OLD)
    assert without_counters(mover.legacy("nft")) == before
    mover("apply", "--accept-losses")
    assert mover.force() == NEW


def test_killed_at_any_moment(mover: Mover) -> None:
    """Some rules are in force then, whole; status tells which, and rollback brings iptables-nft's back."""
    before = without_counters(mover.legacy("nft"))
    started = time.monotonic()
    mover("apply", "--accept-losses")
    mover("rollback")
    took = (time.monotonic() - started) / 2
    chance = random.Random(11)
    for _ in range(rounds(8)):
        for command in (["apply", "--accept-losses"], ["rollback"]):
            process = mover.namespace.popen([*MIGRATE, *command], env=dict(os.environ))
            time.sleep(chance.uniform(0.3, 1.0) * took)  # the moment is what is tried here
            mover.kill(process)
            assert_complete(mover, before)
        if mover.status()["state"] in ("applying", "applied"):
            mover("rollback")
        assert (mover.force(), without_counters(mover.legacy("nft"))) == (OLD, before)
        assert "-A" not in mover.legacy()


def test_stopped_when_they_are_given_back(mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables that iptables-nft has made anew are not taken for nft's, though they have the same names."""
    before = without_counters(mover.legacy("nft"))
    mover("apply", "--accept-losses")

    def stop(_: Record) -> Record:
        raise KeyboardInterrupt

    with mover.namespace, monkeypatch.context() as patch:
        patch.setattr(copies, "given_back", stop)
        with pytest.raises(KeyboardInterrupt):
            cutover.rollback()
    assert_complete(mover, before)
    assert mover.force() == OLD
    mover("rollback")
    assert (mover.force(), without_counters(mover.legacy("nft"))) == (OLD, before)
    assert "-A" not in mover.legacy()


def assert_complete(mover: Mover, before: list[str]) -> None:
    """Rules are in force, all of them, and what status says of them is so."""
    force = mover.force()
    there = without_counters(mover.legacy("nft")) == before
    nft, legacy = mover.nft(), mover.legacy()
    seen = f"{mover.status()}\n{legacy}\n{nft}"
    moved = all(f"add @{name}" in nft or name in nft for name in ("connlimit-INPUT", "recent-seen6"))
    assert any(force.values()), seen
    assert force["nft"] == (moved and "flags dormant" not in nft), seen
    parked = legacy.count("nft has the rules now")
    copied = legacy.count("dport 873") == 2 and parked == 0
    assert force["nft"] or there or copied, seen
    speaking = [each for each in re.findall(r"^\*.*?^COMMIT$", legacy, re.M | re.S) if "-A " in each]
    in_action = any("nft has the rules now" not in each for each in speaking)  # they are put out of it one by one
    assert force["iptables"] == (there or in_action), seen
