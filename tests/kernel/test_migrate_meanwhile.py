"""Rules of iptables that somebody changes while a move is at work: none is lost, and no counters change places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from mover import OLD, Mover

from nfkeep import NfkeepError
from nfkeep.migrate.live import cutover, parking, record, tokens
from nfkeep.migrate.live.host import read_host
from nfkeep.migrate.live.plan import make_plan

if TYPE_CHECKING:
    from types import ModuleType

    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300), pytest.mark.usefixtures("own_directories")]

RULES = """*filter
:INPUT ACCEPT [3:300]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
[7:700] -A INPUT -s 203.0.113.9/32 -j DROP
[5:500] -A INPUT -s 203.0.113.10/32 -j DROP
[11:1100] -A INPUT -s 203.0.113.11/32 -j DROP
[2:222] -A INPUT -p udp -m udp --dport 9 -m quota --quota 10000 -j ACCEPT
[50:5000] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""
LIMIT = "-A INPUT -p tcp -m tcp --dport 873 -m connlimit --connlimit-above 5 -j DROP"
BAN = "iptables-legacy -I INPUT -s 203.0.113.77 -j DROP"
UNBAN = "iptables-legacy -D INPUT -s 203.0.113.10 -j DROP"


@pytest.fixture(params=["", LIMIT], ids=["without a limit", "with a limit"])
def host(namespace: Namespace, request: pytest.FixtureRequest) -> Namespace:
    """A host with rules that have counted."""
    namespace.run("iptables-legacy-restore -c", input=RULES.replace("COMMIT", f"{request.param}\nCOMMIT".lstrip()))
    return namespace


def moved(host: Namespace, monkeypatch: pytest.MonkeyPatch, where: tuple[ModuleType, str], *commands: str) -> None:
    """Move the host, with commands run right before this function of this module is called the first time."""
    module, name = where
    function, left = getattr(module, name), list(commands)

    def after(*args: Any, **options: Any) -> Any:
        while left:
            host.run(left.pop(0))
        return function(*args, **options)

    monkeypatch.setattr(module, name, after)
    with host, record.locked():
        plan = make_plan(read_host(), try_out=False)
        cutover.check(plan, accept_losses=True)
        cutover.apply(plan, lambda _: None)


@pytest.mark.parametrize("commands", [(BAN,), (UNBAN,), (BAN, UNBAN), ("iptables-legacy -P OUTPUT DROP",)], ids=str)
@pytest.mark.parametrize(
    "where", [(parking, "count_again"), (tokens, "carry"), (parking, "park")], ids=["loaded", "in force", "last"]
)
def test_changed(
    host: Namespace, monkeypatch: pytest.MonkeyPatch, where: tuple[ModuleType, str], commands: tuple[str, ...]
) -> None:
    """The move is undone then; what is in force is what was made of the rules, and every rule has its own counters."""
    with pytest.raises(NfkeepError, match="somebody has changed the IPv4 rules of iptables, in filter, meanwhile"):
        moved(host, monkeypatch, where, *commands)
    after = host.run("iptables-legacy-save -c").stdout
    assert Mover(host).force() == OLD
    assert host.run("nft list ruleset").stdout == ""
    assert "nfkeep-migrate" not in after
    assert ("203.0.113.77" in after, "203.0.113.10" not in after) == (BAN in commands, UNBAN in commands)
    for rule in (
        "[7:700] -A INPUT -s 203.0.113.9/",
        "[11:1100] -A INPUT -s 203.0.113.11/",
        "[50:5000] -A INPUT -p tcp",
    ):
        assert rule in after


def test_another_table(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that says something for the first time is no less of a change; one that is only made is none."""
    command = "iptables-legacy -t nat -A POSTROUTING -j MASQUERADE"
    with pytest.raises(NfkeepError, match="in nat, meanwhile"):
        moved(host, monkeypatch, (tokens, "carry"), command)
    assert "MASQUERADE" in host.run("iptables-legacy-save").stdout
    host.run("iptables-legacy -t nat -F")
    moved(host, monkeypatch, (tokens, "carry"), "iptables-legacy -t raw -S")


def test_before_that(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that comes before the rules are read the last time is moved, and back again, also after a confirmation."""
    moved(host, monkeypatch, (cutover, "_again"), BAN, UNBAN)
    assert "ip saddr 203.0.113.77 counter" in host.run("nft list ruleset").stdout
    with host, record.locked():
        cutover.confirm()
        cutover.rollback()
    after = host.run("iptables-legacy-save").stdout
    assert ("203.0.113.77" in after, "203.0.113.10/" in after) == (True, False)


def test_after_that(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes once the old rules are out of action changes none of the counters that go on."""
    moved(host, monkeypatch, (cutover, "_go_on"), BAN, UNBAN)
    listing = host.run("nft list ruleset").stdout
    for number, counted in ((9, "7 bytes 700"), (10, "5 bytes 500"), (11, "11 bytes 1100")):
        assert f"ip saddr 203.0.113.{number} counter packets {counted} drop" in listing
    assert "203.0.113.77" not in listing


def test_a_loss_that_was_accepted(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same one when it has counted meanwhile, and another rule has come in front of it."""
    unknown = "INPUT 1 -m string --string x --algo bm -j DROP"
    host.run(f"iptables-legacy -I {unknown}")
    moved(host, monkeypatch, (cutover, "_again"), f"iptables-legacy -R {unknown} -c 9 99", BAN)
    assert "ip saddr 203.0.113.77 counter packets 0 bytes 0 drop" in host.run("nft list ruleset").stdout


def test_a_loss(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that nft cannot have and that was in no plan is not left out silently."""
    command = "iptables-legacy -I INPUT -m string --string x --algo bm -j DROP"
    with pytest.raises(NfkeepError, match=r"cannot be expressed in nft has come since .*--string"):
        moved(host, monkeypatch, (cutover, "_again"), command)
    assert (Mover(host).force(), host.run("nft list ruleset").stdout) == (OLD, "")
