"""The rules that name a list of xt_recent, and what they leave a ban list to do with it.

Two things of a list are settled by rules of others. One that asks for more stamps per address than any before makes the
kernel empty the list, so ours never does. And the rule that the list was made for gave it a mask, for good, which the
kernel shows nowhere: an address that the mask changes would be banned in vain. What iptables-restore reads as IPv4's
`--mask 255.255.255.255`, and iptables-save always writes, is in the kernel a mask that takes 96 bits off IPv6.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence

import attrs

from nfkeep.bans.values import Kind
from nfkeep.errors import UnsupportedError
from nfkeep.model import Family
from nfkeep.xtables import recent
from nfkeep.xtables.entry import decode
from nfkeep.xtables.tables import TableHandle, in_use

_WHOLE = b"\xff" * 16


@attrs.frozen(slots=True)
class User:
    """One rule that names a list: where it stands, and what a list made for it would be like."""

    chain: str
    where: str
    mask: bytes
    room_for_stamps: int


@attrs.frozen(slots=True)
class Ways:
    """What our rules ask of a packet, and why single hosts of some kinds cannot be banned by that.

    `is_to_be_remade`: the list may have a wrong mask, and no rule but ours stands in the way of making it anew.
    """

    matches: dict[Family, Sequence[str]]
    refused: dict[Kind, UnsupportedError]
    is_to_be_remade: bool


def users(name: str) -> list[User]:
    """All legacy rules of this network namespace that name a list, reached by packets or not.

    Where a list is there without any, a rule of iptables-nft keeps it, which nobody can look into: it may ask for few
    stamps, and is taken to have no mask.
    """
    found: list[User] = []
    for family in Family:
        for table in in_use(family):
            with TableHandle(table, family) as handle:
                chains = handle.chains()
                for chain, position, rule in handle.scan((recent.NAME,)):
                    where = f"{family} {table} {chains[chain]} rule {position}"
                    found += [
                        User(chains[chain], where, recent.mask(match), recent.room_for_stamps(match))
                        for match in decode(rule).matches
                        if match.name == recent.NAME and recent.list_name(match) == name
                    ]
    if not found and os.path.exists(f"{recent.DIRECTORY}/{name}"):
        found.append(User("", "a rule of iptables-nft", _WHOLE, 1))
    return found


def ways(name: str, seconds: int, all_users: Iterable[User], own_chains: Sequence[str]) -> Ways:
    """How our rules are to ask for a list, with a timeout of `seconds` or 0.

    Where the list's mask is in doubt, our rule for IPv4 bears the doubtful mask, so that the doubt outlives its cause.
    """
    named = list(all_users)
    others = [user for user in named if user.chain not in own_chains]
    doubtful = [user for user in named if user.mask != _WHOLE]
    remade = bool(doubtful) and not others
    if remade:
        named = doubtful = []
    ask = f"-m recent --rcheck{f' --seconds {seconds}' if seconds else ''}"
    if named and max(user.room_for_stamps for user in named) < recent.DEFAULT_STAMPS:
        ask += " --hitcount 1"
    end = f" --name {name} --rsource"
    masked = ask + end
    if doubtful:
        masked += f" --mask {socket.inet_ntoa(bytes(map(min, *(user.mask[:4] for user in doubtful), _WHOLE[:4])))}"
    return Ways({Family.IPV4: [masked], Family.IPV6: [ask + end]}, _refused(name, doubtful), remade)


def _refused(name: str, doubtful: Iterable[User]) -> dict[Kind, UnsupportedError]:
    refused = {}
    for user in doubtful:
        why = UnsupportedError(
            f"the list {name} may have been made for networks, by {user.where}: a single host would be banned in vain; "
            "delete that rule, open the list again, and then put the rule back without --mask",
            feature="xt_recent",
        )
        refused[Kind.HOST6] = why
        if user.mask[:4] != _WHOLE[:4]:
            refused[Kind.HOST4] = why
    return refused
