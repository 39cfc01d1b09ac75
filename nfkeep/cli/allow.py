"""`nfkeep allow`: hosts and networks that no ban list has an effect on, and the attempt to ban them is refused.

There is one such list for all ban lists in nft, and one for those of ipset and recent; here they go together.
"""

from __future__ import annotations

import json

import click

from nfkeep.bans.allowing import LEGACY, NFT, Allowed, allowed, disallow
from nfkeep.bans.allowing import allow as add
from nfkeep.cli import chosen
from nfkeep.cli.chosen import say
from nfkeep.cli.table import by_address, show

__all__ = ["allow"]

_BACKENDS = {NFT: ["nft"], LEGACY: ["ipset", "recent"]}


@click.command(short_help="Show or change whom no list bans.")
@click.argument("addresses", metavar="[ADDRESS…]", nargs=-1)
@click.option("--remove", is_flag=True, help="Take each ADDRESS out of the allow list.")
@chosen.as_json
def allow(addresses: tuple[str, ...], remove: bool, as_json: bool) -> None:
    """Let packets from each ADDRESS, a host or a network, past all ban lists; without one, show the allow list.

    A ban of them that is in force already stays in its list, but has no effect from now on.
    """
    if remove and not addresses:
        raise click.UsageError("--remove of which ADDRESS?")
    if remove:
        found = disallow(addresses)
        for each in addresses:
            if each not in found:
                say(f"{each} was not in the allow list")
    elif addresses:
        chosen.warn()
        add(addresses)
    if addresses and not as_json:
        return
    entries = sorted(allowed(), key=lambda entry: by_address(entry.address))
    if as_json:
        print(json.dumps([_object(each) for each in entries], indent=2))
    elif entries:
        show(("address", "for lists in"), [(str(each.address), each.of) for each in entries])
    else:
        print("The allow list is empty.")


def _object(entry: Allowed) -> dict[str, object]:
    return {"address": str(entry.address), "backends": _BACKENDS[entry.of]}
