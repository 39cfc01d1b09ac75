"""The checks of ban lists as pure functions: what was seen goes in, findings come out."""

from __future__ import annotations

import pytest

from nfkeep.bans import health
from nfkeep.bans.discover import Listed
from nfkeep.bans.health import CHECKS
from nfkeep.bans.look import Look
from nfkeep.bans.surroundings import Host
from nfkeep.bans.values import Fill, Policy
from nfkeep.keep.health_finding import Finding, Severity
from nfkeep.xtables.recent import Capacity

OK, WARN, BAD = Severity.OK, Severity.WARN, Severity.BAD


def seen(backend: str = "nft", used: int = 1, size: int = 100, **more: object) -> Look:
    look = {"policy": Policy(), "in_force": True, "fills": (Fill("set s", used, size),)} | more
    return Look(Listed("jail", backend), **look)  # type: ignore[arg-type]  # as the test gives them


def module(is_module: bool | None) -> Capacity:
    return Capacity(100, is_module)


CREATE = "nfkeep list create jail --backend {}"
IN_MODULE = "echo 'options xt_recent ip_list_tot=20000' > /etc/modprobe.d/xt_recent.conf   # and reboot"
AT_BOOT = "boot with xt_recent.ip_list_tot=20000 on the kernel's command line"
CASES = {
    "nothing": (Host(), [(OK, "there are no ban lists here", "")]),
    "a list in force": (
        Host((seen(),)),
        [
            (OK, "ban list jail in nft: in force, with 1 ban", ""),
            (OK, "no set of a ban list is near its size", ""),
        ],
    ),
    "a list without rules": (
        Host((seen("ipset", in_force=False),)),
        [
            (BAD, "ban list jail in ipset: not in force", CREATE.format("ipset")),
            (OK, "no set of a ban list is near its size", ""),
        ],
    ),
    "a list of recent that is gone": (
        Host((seen("recent", in_force=False, policy=None, fills=()),)),
        [(BAD, "ban list jail in recent: not in force", CREATE.format("recent"))],
    ),
    "just below 80 %": (
        Host((seen(used=79),)),
        [
            (OK, "ban list jail in nft: in force, with 79 bans", ""),
            (OK, "no set of a ban list is near its size", ""),
        ],
    ),
    "80 %": (
        Host((seen(used=80),)),
        [
            (OK, "ban list jail in nft: in force, with 80 bans", ""),
            (WARN, "ban list jail in nft: 80 of 100 in set s", "nfkeep ban jail ADDRESS"),
        ],
    ),
    "recent with room": (
        Host(recent_lists={"seen": 79, "a": 0}, capacity=module(True)),
        [
            (OK, "there are no ban lists here", ""),
            (OK, "xt_recent list a: 0 of 100 addresses", ""),
            (OK, "xt_recent list seen: 79 of 100 addresses", ""),
        ],
    ),
    "recent near its size, in a module": (
        Host(recent_lists={"seen": 80}, capacity=module(True)),
        [(OK, "there are no ban lists here", ""), (WARN, "xt_recent list seen: 80 of 100 addresses", IN_MODULE)],
    ),
    "recent full, built in": (
        Host(recent_lists={"seen": 100}, capacity=module(False)),
        [(OK, "there are no ban lists here", ""), (BAD, "xt_recent list seen: 100 of 100 addresses", AT_BOOT)],
    ),
    "recent full, as what is not known": (
        Host(recent_lists={"seen": 120}, capacity=module(None)),
        [
            (OK, "there are no ban lists here", ""),
            (
                BAD,
                "xt_recent list seen: 120 of 100 addresses",
                f"{IN_MODULE}; if xt_recent is built in: {AT_BOOT}",
            ),
        ],
    ),
    "recent fed by a rule": (
        Host((seen("recent"),), fed={"jail": "IPv4 filter INPUT rule 2"}),
        [
            (OK, "ban list jail in recent: in force, with 1 ban", ""),
            (
                WARN,
                "ban list jail in recent: the rule at IPv4 filter INPUT rule 2 puts addresses into it",
                "nfkeep list remove jail --backend recent",
            ),
        ],
    ),
    "one name three times": (
        Host((seen("nft"), seen("ipset"), seen("recent"))),
        [
            (OK, "ban list jail in nft: in force, with 1 ban", ""),
            (OK, "ban list jail in ipset: in force, with 1 ban", ""),
            (OK, "ban list jail in recent: in force, with 1 ban", ""),
            (OK, "no set of a ban list is near its size", ""),
            (WARN, "ban list jail is in nft and in ipset", "nfkeep list remove jail --backend ipset"),
            (WARN, "ban list jail is in nft and in recent", "nfkeep list remove jail --backend recent"),
        ],
    ),
}


@pytest.mark.parametrize(("host", "expected"), CASES.values(), ids=CASES)
def test_findings(host: Host, expected: list[tuple[Severity, str, str]]) -> None:
    """Each has a severity, what was found and what mends it, in the order of the checks."""
    assert [(found.severity, found.what, found.fix) for found in findings(host)] == expected


@pytest.mark.parametrize("host", [host for host, _ in CASES.values()], ids=CASES)
def test_reasons(host: Host) -> None:
    """What is not ok has a reason and a remedy, and what is ok has neither."""
    for found in findings(host):
        assert (bool(found.why), bool(found.fix)) == ((found.severity is not OK,) * 2)


WHY = {
    "its rules tell what it did": (seen(in_force=False), False, False),
    "they do not": (seen(in_force=False, policy=None), True, False),
    "nor is the list there": (seen("recent", in_force=False, policy=None, fills=()), True, True),
}


@pytest.mark.parametrize(("look", "forgotten", "gone"), WHY.values(), ids=WHY)
def test_what_a_list_without_rules_has_lost(look: Look, forgotten: bool, gone: bool) -> None:
    """Where the rules tell no more what the list did, and where its bans went with them, that is said."""
    [found] = health.in_force(Host((look,)))
    assert ("what it did is not known any more" in found.why, "its bans have gone" in found.why) == (forgotten, gone)


def findings(host: Host) -> list[Finding]:
    return [finding for check in CHECKS for finding in check(host)]
