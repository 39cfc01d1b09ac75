"""`nfkeep list create|show|flush|remove`: make ban lists, say what they do, empty them, take them down.

What is so already is no failure: `create` adopts a list with all its bans, and `remove` only says that there was none.
"""

from __future__ import annotations

import json

import click

from nfkeep.bans.banlist import DEFAULT_SIZE, BanList
from nfkeep.bans.choose import choose
from nfkeep.bans.discover import find
from nfkeep.bans.look import look
from nfkeep.bans.values import Action, Rejection
from nfkeep.cli import chosen, duration
from nfkeep.cli.banned import described, does, tell_unless_in_force
from nfkeep.cli.chosen import say
from nfkeep.cli.duration import words
from nfkeep.errors import UnsupportedError

__all__ = ["list"]


@click.group(short_help="Make, show, empty and remove ban lists.")
def group() -> None:
    """Make ban lists, show what they do, empty them, take them down."""


@group.command(short_help="Make a list, or change what it does.")
@click.argument("name", metavar="NAME")
@chosen.in_backend
@click.option(
    "--port", "ports", multiple=True, metavar="PORT", help="22/tcp, http, 1000-2000/udp, 53, icmp; repeatable."
)
@click.option("--action", type=click.Choice([each.value for each in Action]), help="What becomes of its packets.")
@click.option("--reject-with", type=click.Choice([each.value for each in Rejection]), help="Implies --action reject.")
@click.option("--kill", is_flag=True, help="A ban also ends the connections that are open.")
@click.option(
    "--for", "seconds", callback=duration.seconds, metavar="TIME", help="How long each ban lasts (recent only)."
)
@click.option("--size", type=click.IntRange(1, 1 << 24), default=DEFAULT_SIZE, show_default=True, help="Room at first.")
@click.option("--allow", multiple=True, metavar="ADDRESS", help="Put into the allow list; repeatable.")
@chosen.as_json
def create(
    name: str,
    backend: str,
    ports: tuple[str, ...],
    action: str | None,
    reject_with: str | None,
    kill: bool,
    seconds: float | None,
    size: int,
    allow: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make the ban list NAME, which drops all packets from whom it bans unless the options say otherwise.

    A list that is there keeps its bans: without --port, --action, --reject-with and --kill it also goes on as it is,
    and what is missing of its rules is put back; with any of them, they say all that it does from now on.
    """
    if reject_with is not None and action not in (None, "reject"):
        raise click.UsageError(f"--reject-with is for --action reject, not for {action}")
    listed = chosen.makeable(name, backend)
    if listed is not None:
        backend = listed.backend
    if seconds is not None:
        _check_time(name, backend)
    elif listed is not None:
        seconds = listed.timeout
    chosen.warn()
    with BanList(
        name,
        backend,
        ports=ports or None,
        action="reject" if reject_with is not None else action,
        reject_with=reject_with,
        kill=kill or None,
        timeout=seconds,
        size=size,
        allow=allow,
    ) as bans:
        backend = bans.backend
        reason = bans.reason if listed is None else chosen.reason(listed)
    seen = look(chosen.existing(name, backend))
    if as_json:
        print(json.dumps({**described(seen), "reason": reason, "made": listed is None}, indent=2))
    else:
        done = f"made {name} in {backend} ({reason})" if listed is None else f"kept {name} in {backend}"
        print(f"{done}: {does(seen.policy)}")


@group.command(short_help="Show what a list does.")
@click.argument("name", metavar="NAME")
@chosen.in_backend
@chosen.as_json
def show(name: str, backend: str, as_json: bool) -> None:
    """Show what the ban list NAME does, where it is, whether it is in force, and how full. Nothing is changed."""
    seen = look(chosen.existing(name, backend))
    if as_json:
        print(json.dumps(described(seen), indent=2))
        return
    print(f"does      {does(seen.policy)}")
    print(f"backend   {seen.listed.backend}")
    if seen.listed.timeout is not None:
        print(f"each for  {words(seen.listed.timeout)}")
    print(f"in force  {'yes' if seen.in_force else 'no'}")
    for fill in seen.fills:
        print(f"fill      {fill.used} of {fill.size} in {fill.name}")
    tell_unless_in_force(seen)


@group.command(short_help="Lift all bans of a list.")
@click.argument("name", metavar="NAME")
@chosen.in_backend
def flush(name: str, backend: str) -> None:
    """Lift all bans of the list NAME; the list stays."""
    with chosen.opened(chosen.existing(name, backend)) as bans:
        bans.flush()


@group.command(short_help="Take a list down.")
@click.argument("name", metavar="NAME")
@chosen.in_backend
def remove(name: str, backend: str) -> None:
    """Take the list NAME down, with its bans and its rules. The allow list stays."""
    listed = find(name, backend)
    if listed is None:
        say(f"there was no ban list {name}{'' if backend == 'auto' else f' in {backend}'}")
        return
    BanList(listed.name, listed.backend, timeout=listed.timeout).remove()


def _check_time(name: str, backend: str) -> None:
    """Raise UnsupportedError unless the list would have a time for all its bans."""
    kept_by, _ = choose(name, backend)
    if not kept_by.limits.list_timeout:
        raise UnsupportedError(
            f"{kept_by.kind_name} keeps a time for each ban, and none for a list: give --for to nfkeep ban instead",
            "timeout of a list",
        )


list = group  # the name that it is called by
