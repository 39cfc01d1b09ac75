"""What a move finds after the next boot, as far as a namespace can show it; tests/vm boots for real."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from mover import NEW, OLD, SYSTEMCTL, Mover, without_counters

from nfkeep.keep import rundir
from nfkeep.migrate.live import persist, record

if TYPE_CHECKING:
    from pathlib import Path

    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("own_directories")]

RULES = """*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m set --match-set banned src -j DROP
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""


@pytest.fixture
def mover(namespace: Namespace) -> Mover:
    """A host whose boot script makes a set and loads rules."""
    load_rules(namespace)
    return Mover(namespace)


def load_rules(namespace: Namespace) -> None:
    namespace.run("ipset create -exist banned hash:ip timeout 1000")
    namespace.run("iptables-legacy-restore", input=RULES)


def boot(namespace: Namespace) -> None:
    """Nothing is in force any more, and the record is of an earlier boot."""
    namespace.run("nft flush ruleset")
    namespace.run("iptables-legacy-restore", input="*filter\n:INPUT ACCEPT\nCOMMIT\n")
    namespace.run("ipset destroy")
    with namespace:
        place = record.folder() / "record.json"
    content = json.loads(place.read_text())
    place.write_text(json.dumps({**content, "boot": "an earlier one"}))


def test_not_confirmed(mover: Mover) -> None:
    """What the boot script has loaded is known as iptables' rules, and can be moved, or rolled back, at once."""
    before = mover.legacy()
    for command, force in ("apply", NEW), ("rollback", OLD):
        mover("apply")
        boot(mover.namespace)
        load_rules(mover.namespace)
        assert (mover.force(), mover.status()["state"]) == (OLD, "applied")
        mover(command)
        assert mover.force() == force
        if command == "apply":
            mover("rollback")
    assert without_counters(mover.legacy()) == without_counters(before)


def test_the_host_without_cookies(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.14 the host is known by a setting that no other namespace has; both ways say the same."""
    by_cookie = record.folder().name == record.HOST
    with namespace:
        assert record.folder().name != record.HOST
    monkeypatch.setattr(rundir, "namespace", lambda: "net-4026531840")
    assert (record.folder().name == record.HOST) == by_cookie
    with namespace:
        assert record.folder().name == "net-4026531840"


def test_nothing_is_loaded(mover: Mover) -> None:
    """No boot script has loaded anything: no rules are in force."""
    mover("apply")
    boot(mover.namespace)
    assert mover.force() == {"iptables": False, "nft": False}


def test_confirmed_and_both_are_loaded(mover: Mover, tmp_path: Path) -> None:
    """The services were not switched in time: status says that both are in force, and the rollback leaves one."""
    mover("apply")
    mover("confirm", "--config", str(tmp_path / "nftables.conf"))
    boot(mover.namespace)
    load_rules(mover.namespace)
    assert (mover.force(), mover.status()["state"]) == (OLD, "confirmed")
    mover.namespace.run(["nft", "-f", str(tmp_path / "nftables.conf")])
    assert mover.force() == {"iptables": True, "nft": True}
    mover("rollback")
    assert (mover.force(), mover.nft()) == (OLD, "")


def test_a_set_is_gone(mover: Mover, tmp_path: Path) -> None:
    """After a confirmed move nobody makes the sets of ipset any more: the rollback does, as they were."""
    mover.namespace.run("ipset add banned 192.0.2.9")
    before = mover.legacy()
    mover("apply")
    mover("confirm", "--config", str(tmp_path / "nftables.conf"))
    boot(mover.namespace)
    mover.namespace.run(["nft", "-f", str(tmp_path / "nftables.conf")])
    assert mover.force() == NEW
    mover("rollback")
    assert (mover.force(), mover.nft()) == (OLD, "")
    assert without_counters(mover.legacy()) == without_counters(before)
    assert "192.0.2.9 timeout" in mover.namespace.run("ipset list banned").stdout


@pytest.mark.parametrize("first", [("netfilter-persistent.service",), ("ip6tables.service", "nftables.service")])
def test_what_boots(mover: Mover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: tuple[str, ...]) -> None:
    """The way back enables the services that were enabled, and puts the file back; once."""
    tools, enabled, path = tmp_path / "tools", tmp_path / "enabled", tmp_path / "nftables.conf"
    for each in (tools, enabled):
        each.mkdir()
    (tools / "systemctl").write_text(SYSTEMCTL.format(folder=enabled))
    (tools / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(persist, "_SYSTEMD", tools)
    for each in first:
        (enabled / each).touch()
    path.write_text("# mine\n")
    mover("apply")
    with mover.namespace:
        persist.remember(path)
        persist.write(path, persist.ruleset()[0])
        persist.remember(path)  # again, since it was stopped
        persist.switch_services()
        assert os.listdir(enabled) == ["nftables.service"]
        persist.go_back()
        assert (sorted(os.listdir(enabled)), path.read_text()) == (sorted(first), "# mine\n")
        assert persist.go_back() == []
        persist.forget()
