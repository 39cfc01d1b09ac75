"""`nfkeep bans`: whom a ban list bans and for how long still, or which ban lists there are.

It only looks: a list whose rules are gone is shown, and said not to be in force, but left as it is.
"""

from __future__ import annotations

import json

import click

from nfkeep.bans.look import Look, look, look_at_all
from nfkeep.bans.look import bans as banned_by
from nfkeep.bans.values import Action, Ban, Policy
from nfkeep.cli import chosen
from nfkeep.cli.chosen import say
from nfkeep.cli.duration import words
from nfkeep.cli.table import by_address, show

__all__ = ["bans", "described", "does", "tell_unless_in_force"]


@click.command(short_help="Show who is banned, or the ban lists.")
@click.argument("name", metavar="[LIST]", required=False)
@chosen.in_backend
@chosen.as_json
def bans(name: str | None, backend: str, as_json: bool) -> None:
    """Show whom LIST bans, for how long still, and for how long in all; without LIST, which ban lists there are.

    A table on a terminal, aligned lines otherwise. Nothing is changed.
    """
    if name is None:
        _show_lists(backend, as_json)
        return
    seen = look(chosen.existing(name, backend))
    found = sorted(banned_by(seen.listed), key=lambda ban: by_address(ban.address))
    if as_json:
        head = {"list": name, "backend": seen.listed.backend, "reason": chosen.reason(seen.listed)}
        body = {"fills": described(seen)["fills"], "bans": [_object(ban) for ban in found]}
        print(json.dumps({**head, "policy": _policy(seen), "in_force": seen.in_force, **body}, indent=2))
        return
    if found:
        show(("address", "remaining", "timeout", "comment"), [_cells(ban) for ban in found])
    else:
        print(f"{name} bans nobody.")
    tell_unless_in_force(seen)


def described(seen: Look) -> dict[str, object]:
    """A list as JSON has it: "policy" is null where its rules do not tell, "timeout" is in seconds or null."""
    return {
        "list": seen.listed.name,
        "backend": seen.listed.backend,
        "policy": _policy(seen),
        "in_force": seen.in_force,
        "timeout": seen.listed.timeout,
        "entries": seen.entries,
        "fills": [{"name": fill.name, "used": fill.used, "size": fill.size} for fill in seen.fills],
    }


def does(policy: Policy | None) -> str:
    """What a list does to packets from whom it bans, in words; "?" where its rules do not tell."""
    if policy is None:
        return "?"
    action = f"reject ({policy.rejection.value})" if policy.action is Action.REJECT else policy.action.value
    services = " ".join(map(str, policy.services)) or "everything"
    return f"{action} {services}{', kill' if policy.kill else ''}"


def tell_unless_in_force(seen: Look) -> None:
    """A line on stderr for a list that has no effect."""
    if not seen.in_force:
        listed = seen.listed
        say(
            f"the ban list {listed.name} is not in force, as rules of it are missing; "
            f"to put them back: nfkeep list create {listed.name} --backend {listed.backend}"
        )


def _show_lists(backend: str, as_json: bool) -> None:
    seen = [each for each in look_at_all() if backend in ("auto", each.listed.backend)]
    if as_json:
        print(json.dumps([described(each) for each in seen], indent=2))
    elif not seen:
        print("There are no ban lists here." if backend == "auto" else f"There are no ban lists in {backend} here.")
    else:
        show(("list", "backend", "bans", "fullest", "in force", "does"), [_list_cells(each) for each in seen])


def _list_cells(seen: Look) -> tuple[str, ...]:
    fullest = max(seen.fills, key=lambda fill: fill.used / fill.size, default=None)
    fill = "-" if fullest is None else f"{fullest.used} of {fullest.size}"
    in_force = "yes" if seen.in_force else "no"
    return seen.listed.name, seen.listed.backend, str(seen.entries), fill, in_force, does(seen.policy)


def _policy(seen: Look) -> str | None:
    return None if seen.policy is None else str(seen.policy)


def _object(ban: Ban) -> dict[str, object]:
    return {"address": str(ban.address), "timeout": ban.timeout, "expires": ban.expires, "comment": ban.comment}


def _cells(ban: Ban) -> tuple[str, ...]:
    return str(ban.address), words(ban.expires), words(ban.timeout), ban.comment
