"""`nfkeep-migrate translate`: text of iptables-save in, an nft script out, and aloud what the script does not say."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from nfkeep import migrate
from nfkeep.cli import table
from nfkeep.keep.report import Fidelity
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO, TextIO

    from nfkeep.migrate import Loss

__all__ = ["EXIT_STATUS", "INPUT", "decoded", "loss_objects", "status", "translate"]

INPUT = click.File("rb", lazy=False)
_OUTPUT = click.File("w", lazy=False)

_EXACT, _APPROXIMATED, _LOST = 0, 3, 4
EXIT_STATUS = (
    "Exit status: 0 every rule means the same, 3 something is approximated, 4 something is lost,"
    " 1 failed with one line on stderr, 2 wrong usage."
)


@click.command(short_help="Translate text of iptables-save to an nft script.", epilog=EXIT_STATUS)
@click.argument("source", type=INPUT, default="-", metavar="[FILE]")
@click.option("--ipv6", is_flag=True, help="The text is from ip6tables-save.")
@click.option("--ipsets", type=INPUT, metavar="FILE", help="What `ipset save` prints, for rules that look up sets.")
@click.option("--optimize", is_flag=True, help="Make rules that differ in one value one rule with a set.")
@click.option("--losses", "file", type=_OUTPUT, metavar="FILE", help="Write there what is not exact, as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print script and losses as one JSON object.")
def translate(
    source: BinaryIO, ipv6: bool, ipsets: BinaryIO | None, optimize: bool, file: TextIO | None, as_json: bool
) -> int:
    """Translate FILE, or standard input, to a script that `nft -f` loads.

    Every rule means what it meant, counters included; what nft cannot express is told on stderr, and has a line
    `# LOST` in the script. Needs no rights and changes nothing.
    """
    family = Family.IPV6 if ipv6 else Family.IPV4
    sets = decoded(ipsets) if ipsets is not None else ""
    done = migrate.translate(decoded(source), family, ipsets=sets, optimize=optimize)
    if file is not None:
        file.write(json.dumps(loss_objects(done.losses), indent=2) + "\n")
    if as_json:
        print(json.dumps({"exact": done.exact, "losses": loss_objects(done.losses), "script": done.script}, indent=2))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(done.script.encode(errors="surrogateescape"))
        if done.losses:
            _tell(done.losses)
    return status(done.losses)


def decoded(file: BinaryIO) -> str:
    """The text of a file whose bytes need not be UTF-8, and which has no character that was not there."""
    return file.read().decode(errors="surrogateescape")


def status(losses: Sequence[Loss]) -> int:
    """The exit status for these losses."""
    if not losses:
        return _EXACT
    return _LOST if any(loss.fidelity is Fidelity.LOST for loss in losses) else _APPROXIMATED


def loss_objects(losses: Sequence[Loss]) -> list[dict[str, Any]]:
    """The losses as JSON has them."""
    return [
        {
            "line": loss.line,
            "rule": loss.rule,
            "part": loss.part,
            "fidelity": loss.fidelity.value,
            "reason": loss.reason,
            "advice": loss.advice,
        }
        for loss in losses
    ]


def _tell(losses: Sequence[Loss]) -> None:
    rows = [(f"{loss.line}", f"{loss.fidelity}", loss.part, loss.reason, loss.advice) for loss in losses]
    table.show(("line", "is", "what", "why", "what to do"), rows, file=sys.stderr)
