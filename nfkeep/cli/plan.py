"""`nfkeep-migrate plan`: what the move of this host from iptables to nftables would do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from nfkeep.cli import outcomes, table
from nfkeep.cli.translate import status
from nfkeep.migrate.live import page
from nfkeep.migrate.live.host import read_host
from nfkeep.migrate.live.plan import make_plan

if TYPE_CHECKING:
    from typing import TextIO

    from nfkeep.migrate.live.plan import Plan

__all__ = ["plan"]

_REFUSED = 1
_EPILOG = (
    "Exit status: 0 every rule means the same, 3 something is approximated, 4 something is lost,"
    " 1 the move would be refused or failed with one line on stderr, 2 wrong usage."
)


@click.command(short_help="Tell what the move of this host would do; changes nothing.", epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print script, losses, states and obstacles as one JSON object.")
@click.option("--script", is_flag=True, help="Print the script for nft only.")
@click.option(
    "--html", "file", type=click.File("w", encoding="utf-8", lazy=False), metavar="FILE",
    help="Write there a page with every rule, old beside new; if it is -, print that page only.",
)  # fmt: skip
def plan(as_json: bool, script: bool, file: TextIO | None) -> int:
    """Read this host's rules and what they have in memory, and tell what would become of them.

    Reads the legacy tables of iptables with their counters, the sets and lists that they look into, and what nft has
    already. Changes nothing. Needs root.
    """
    made = make_plan(read_host())
    if file is not None:
        file.write(page.html(made))
    if file is not None and file.fileno() == sys.stdout.fileno():
        pass  # something behind the page would be seen as part of it
    elif as_json:
        print(made.to_json())
    elif script:
        sys.stdout.flush()
        sys.stdout.buffer.write(made.script.encode(errors="surrogateescape"))
    else:
        _tell(made)
    if made.obstacles:
        return _REFUSED
    return status([loss for each in made.translations.values() for loss in each.losses])


def _tell(made: Plan) -> None:
    for family, text in made.host.rules.items():
        rules = sum(1 for line in text.splitlines() if " -A " in line)
        variant = "iptables-nft" if family in made.host.compat else "iptables"
        print(f"{family}: {_many(rules, 'rule')} in {_many(text.count('COMMIT'), 'table')} of {variant}")
    losses = [(family, loss) for family, each in made.translations.items() for loss in each.losses]
    if losses:
        print("\nRules that nft does not take as they are:")
        rows = [(f"{loss.fidelity}", f"{family}", loss.rule, loss.reason, loss.advice) for family, loss in losses]
        table.show(("is", "family", "rule", "why", "what to do"), rows)
    if made.outcomes:
        print("\nWhat becomes of the state:")
        table.show(
            ("state", "where", "is", "how"), [(o.kind, o.where, f"{o.fidelity}", o.detail) for o in made.outcomes]
        )
    if made.owners:
        print("\nPrograms that go on writing with iptables, which nobody looks at after the move:")
        outcomes.show_owners(made.owners)
    for each in made.obstacles:
        print(f"\nIn the way: {table.plain(each)}")


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
