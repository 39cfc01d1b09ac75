"""`nfkeep ban` and `nfkeep unban`: put addresses into ban lists, and take them out.

Only `ban` makes a list that is not there, and says so; what speaks against an address is told on stderr, line by line.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import click

from nfkeep.bans.banlist import BanList
from nfkeep.bans.given import read_address
from nfkeep.cli import chosen, duration
from nfkeep.cli.chosen import say
from nfkeep.errors import (
    AllowedAddressError,
    InvalidAddressError,
    ListFullError,
    ListGoneError,
    RefusedBansError,
    UnsupportedError,
)

__all__ = ["ban", "unban"]

_Refused: TypeAlias = list[tuple[object, object]]
"""Addresses as given, each with what speaks against it."""


@click.command(short_help="Ban hosts and networks.")
@click.argument("name", metavar="LIST")
@click.argument("given", metavar="ADDRESS…", nargs=-1, required=True)
@click.option(
    "--for", "seconds", callback=duration.seconds, metavar="TIME", help="90s, 1h30m, 7d, or forever (the default)."
)
@click.option("--comment", default="", metavar="TEXT", help="Kept in the kernel with the ban.")
@click.option("--force", is_flag=True, help="Even if it is the other end of this SSH session, or everybody.")
@chosen.in_backend
@chosen.as_json
def ban(
    name: str, given: tuple[str, ...], seconds: float | None, comment: str, force: bool, backend: str, as_json: bool
) -> int:
    """Ban each ADDRESS, a host or a network, IPv4 or IPv6; `-` takes them from stdin, one a line.

    Who is banned already is banned for the given time from now on. A LIST that is not there is made, and said to be:
    it drops all packets from whom it bans. Exit status 1 if an address was refused; the others are banned nevertheless.
    """
    wanted, refused = _wanted(given)
    listed = chosen.makeable(name, backend)
    banned, kept_by, reason = 0, listed.backend if listed is not None else backend, ""
    if wanted is not None:
        with chosen.opened(listed) if listed is not None else chosen.made(name, backend) as bans:
            kept_by, reason = bans.backend, chosen.reason(listed) if listed is not None else bans.reason
            try:
                banned = _ban(bans, wanted, seconds, comment, force, refused)
            finally:
                stays = listed is not None or _keep_if_used(bans)
            if listed is None and stays:
                say(f"made the ban list {name} in {kept_by}; it drops everything from those it bans")
    if as_json:
        result = {"list": name, "backend": kept_by, "reason": reason, "made": listed is None and banned > 0}
        print(json.dumps({**result, "banned": banned, "refused": _objects(refused)}, indent=2))
    return _tell(refused)


@click.command(short_help="Lift bans.")
@click.argument("name", metavar="LIST")
@click.argument("given", metavar="ADDRESS…", nargs=-1, required=True)
@chosen.in_backend
@chosen.as_json
def unban(name: str, given: tuple[str, ...], backend: str, as_json: bool) -> int:
    """Lift the ban of each ADDRESS, of exactly this host or network; `-` takes them from stdin, one a line.

    That one was not banned is said, and is no failure. Exit status 1 if it is still banned, as the ban of a network
    that it lies in is another one (not looked for with `-`), or if it is no address.
    """
    wanted, refused = _wanted(given)
    listed = chosen.existing(name, backend)
    lifted = 0
    if wanted is not None:
        with chosen.opened(listed) as bans:
            try:
                if given == ("-",):
                    lifted = bans.unban_many(wanted)
                else:
                    lifted = sum([_unban(bans, each, refused) for each in wanted])
            except RefusedBansError as error:
                lifted = error.banned
                refused += error.refused
    if as_json:
        result = {"list": name, "backend": listed.backend, "lifted": lifted, "refused": _objects(refused)}
        print(json.dumps(result, indent=2))
    return _tell(refused)


def _wanted(given: Sequence[str]) -> tuple[Iterable[str] | None, _Refused]:
    """What can be read of the addresses (None: nothing, so that no list need be made), and what cannot."""
    wanted, streamed = chosen.addresses(given)
    refused: _Refused = []
    if streamed:
        return wanted, refused
    readable = []
    for each in wanted:
        try:
            read_address(each)
            readable.append(each)
        except InvalidAddressError as error:
            refused.append((each, error))
    return readable or None, refused


def _ban(
    bans: BanList, wanted: Iterable[str], seconds: float | None, comment: str, force: bool, refused: _Refused
) -> int:
    """Add to `refused`; how many are banned."""
    if not comment:
        try:
            return bans.ban_many(wanted, seconds, force=force)
        except RefusedBansError as error:
            refused += error.refused
            return error.banned
    banned = 0
    for each in wanted:
        try:
            bans.ban(each, seconds, comment=comment, force=force)
            banned += 1
        except (InvalidAddressError, AllowedAddressError, ListFullError, UnsupportedError) as error:
            refused.append((each, error))
    return banned


def _keep_if_used(bans: BanList) -> bool:
    """Whether a list that was just made has a use; if not, it is taken down again."""
    with contextlib.suppress(ListGoneError):
        if len(bans):
            return True
        bans.remove()
    return False


def _unban(bans: BanList, address: str, refused: _Refused) -> bool:
    lifted = bans.unban(address)
    around = ", ".join(str(ban.address) for ban in bans.covering(address))
    if around:
        refused.append((address, f"{address} is still banned, by {around}"))
    elif not lifted:
        say(f"{address} was not banned in {bans.name}")
    return lifted


def _tell(refused: _Refused) -> int:
    for _, why in refused:
        say(why)
    return 1 if refused else 0


def _objects(refused: _Refused) -> list[dict[str, str]]:
    return [{"address": str(address), "reason": str(why)} for address, why in refused]
