"""What is wrong, or soon will be, with the ban lists of a host and the rules around them: the checks, as values.

`examine` looks once, at everything; each check is a pure function of what was seen, and yields good news too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nfkeep.bans.surroundings import Host, seen
from nfkeep.keep.health_finding import Finding, Severity


def examine() -> tuple[Finding, ...]:
    """What all checks find in this network namespace. Nothing is changed.

    Raises PermissionDeniedError, or another NfkeepError if something cannot be looked at.
    """
    host = seen()
    return tuple(finding for check in CHECKS for finding in check(host))


def in_force(host: Host) -> Iterator[Finding]:
    """Every list, and whether its rules are all there."""
    if not host.looks:
        yield Finding(Severity.OK, "there are no ban lists here")
    for each in host.looks:
        name, backend = each.listed.name, each.listed.backend
        if each.in_force:
            bans = "1 ban" if each.entries == 1 else f"{each.entries} bans"
            yield Finding(Severity.OK, f"ban list {name} in {backend}: in force, with {bans}")
            continue
        why = "rules of it are missing, so it has no effect, or not on all packets"
        if backend == "recent" and not each.fills:
            why += "; with the last rule its bans have gone"
        if each.policy is None:
            why += "; what it did is not known any more: if it did not drop everything, add --port, --action or --kill"
        yield Finding(
            Severity.BAD,
            f"ban list {name} in {backend}: not in force",
            why,
            f"nfkeep list create {name} --backend {backend}",
        )


def fills(host: Host) -> Iterator[Finding]:
    """Sets of nft and ipset near their size; those of recent have a check of their own."""
    near = False
    for each in host.looks:
        if each.listed.backend == "recent":
            continue
        for fill in each.fills:
            if fill.used >= fill.size * _NEAR:
                near = True
                yield Finding(
                    Severity.WARN,
                    f"ban list {each.listed.name} in {each.listed.backend}: {fill.used} of {fill.size} in {fill.name}",
                    "nfkeep lets it grow with the next ban; what other programs add may not fit before that",
                    f"nfkeep ban {each.listed.name} ADDRESS",
                )
    if any(each.listed.backend != "recent" for each in host.looks) and not near:
        yield Finding(Severity.OK, "no set of a ban list is near its size")


def recent_room(host: Host) -> Iterator[Finding]:
    """Lists of xt_recent, of whomever, beside ip_list_tot."""
    size = host.capacity.size
    for name, used in sorted(host.recent_lists.items()):
        what = f"xt_recent list {name}: {used} of {size} addresses"
        if used < size * _NEAR:
            yield Finding(Severity.OK, what)
            continue
        why = "when it is full, a packet that meets a --set rule, or another program, pushes the oldest address out"
        yield Finding(Severity.BAD if used >= size else Severity.WARN, what, why, _MORE[host.capacity.is_module])


def recent_fed(host: Host) -> Iterator[Finding]:
    """Ban lists in recent that a rule of somebody else puts packets' sources into."""
    for name, where in sorted(host.fed.items()):
        yield Finding(
            Severity.WARN,
            f"ban list {name} in recent: the rule at {where} puts addresses into it",
            "whoever sends a packet that this rule matches is banned",
            f"nfkeep list remove {name} --backend recent",
        )


def same_name(host: Host) -> Iterator[Finding]:
    """Lists of one name in several backends."""
    first: dict[str, str] = {}
    for each in host.looks:
        name, backend = each.listed.name, each.listed.backend
        if first.setdefault(name, backend) != backend:
            yield Finding(
                Severity.WARN,
                f"ban list {name} is in {first[name]} and in {backend}",
                f"where no backend is said, that in {first[name]} is meant: who is banned in the other stays banned",
                f"nfkeep list remove {name} --backend {backend}",
            )


CHECKS: tuple[Callable[[Host], Iterator[Finding]], ...] = (
    in_force,
    fills,
    recent_room,
    recent_fed,
    same_name,
)
"""In the order in which their findings are told."""

_NEAR = 0.8
_IN_MODULE = "echo 'options xt_recent ip_list_tot=20000' > /etc/modprobe.d/xt_recent.conf   # and reboot"
_AT_BOOT = "boot with xt_recent.ip_list_tot=20000 on the kernel's command line"
_MORE = {True: _IN_MODULE, False: _AT_BOOT, None: f"{_IN_MODULE}; if xt_recent is built in: {_AT_BOOT}"}
