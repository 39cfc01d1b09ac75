"""`nfkeep-migrate verify`: packets through rules of iptables and through an nft script, and where the two differ."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from nfkeep import migrate
from nfkeep.cli import table
from nfkeep.cli.translate import INPUT, decoded
from nfkeep.errors import NfkeepError
from nfkeep.model import Family

if TYPE_CHECKING:
    from typing import BinaryIO

    from nfkeep.migrate.verify import Verification

__all__ = ["verify"]

_PACKETS = 2000
_DIFFERENT = 5
_SHOWN = 12
_EPILOG = (
    "Exit status: 0 no packet was treated differently, 5 some were,"
    " 1 failed with one line on stderr, 2 wrong usage."
)  # fmt: skip


@click.command(short_help="Try on the kernel whether an nft script does what iptables does.", epilog=_EPILOG)
@click.argument("source", type=INPUT, default="-", metavar="[SAVE]")
@click.argument("script", type=INPUT, required=False, metavar="[SCRIPT]")
@click.option("--ipv6", is_flag=True, help="SAVE is from ip6tables-save.")
@click.option("--packets", type=click.IntRange(1), default=_PACKETS, show_default=True, metavar="N", help="How many.")
@click.option("--live", is_flag=True, help="Compare this host's rules of iptables, of --ipv6 or not, with its nft.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as a JSON object.")
def verify(source: BinaryIO, script: BinaryIO | None, ipv6: bool, packets: int, live: bool, as_json: bool) -> int:
    """Send the same packets through SAVE, text of iptables-save, and through SCRIPT, for `nft -f`, and compare.

    Without SCRIPT, our own translation of SAVE is tried. It all happens in network namespaces. Needs root.

    With --live: this host's rules through iptables and through what `apply` would load; after `apply`, the rules as
    they were before it and what is in nft now.
    """
    from nfkeep.migrate.verify import verify as compare

    family = Family.IPV6 if ipv6 else Family.IPV4
    if live:
        text, loaded = _of_this_host(family)
    else:
        text, loaded = decoded(source), None if script is None else decoded(script)
    if loaded is not None:
        found = compare(text, loaded, family, packets=packets)
    else:
        found = compare(text, _translated(text, family), family, packets=packets, translate=_translated)
    if as_json:
        print(json.dumps(_object(found), indent=2))
    else:
        _tell(found)
    return 0 if found.equal else _DIFFERENT


def _of_this_host(family: Family) -> tuple[str, str | None]:
    """The rules of iptables, and what is in nft for them; None if nothing is yet."""
    from nfkeep.migrate.live import cutover

    text, loaded = cutover.both(family)
    if not text:
        raise NfkeepError(f"there are no {family} rules of iptables here, and no move that put them into nft")
    return text, loaded


def _translated(text: str, family: Family) -> str:
    return migrate.translate(text, family).script


def _object(found: Verification) -> dict[str, Any]:
    return {
        "equal": found.equal,
        "sent": found.sent,
        "mismatches": [
            {
                "packet": each.packet,
                "iptables": each.legacy,
                "nft": each.nft,
                "rules": list(each.rules),
                "together": each.together,
            }
            for each in found.mismatches
        ],
        "uncompared": list(found.uncompared),
    }


def _tell(found: Verification) -> None:
    for mismatch in found.mismatches[:_SHOWN]:
        print(*map(table.plain, str(mismatch).splitlines()), sep="\n")
    if len(found.mismatches) > _SHOWN:
        print(f"and {len(found.mismatches) - _SHOWN} more: --json has all")
    for each in found.uncompared:
        print(f"not compared: {table.plain(each)}")
    print(f"{found.sent} packets, {len(found.mismatches)} treated differently")
