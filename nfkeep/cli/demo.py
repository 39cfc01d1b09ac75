"""`nfkeep demo`: the incident with plain iptables and with nfkeep, side by side, on real connections.

It works in network namespaces of its own and exits 0 only if plain iptables lost the counts and nfkeep kept all.
"""

from __future__ import annotations

import json
import os
import sys

import attrs
import click
from rich.console import Console
from rich.table import Table

from nfkeep.cli.incident import CLOSED, LIMIT, SHAPES, TRIED, Change, Replay, Shape, by_iptables, by_nfkeep, replay
from nfkeep.namespaces import Namespace

__all__ = ["Comparison", "demo"]


@attrs.frozen(slots=True)
class Comparison:
    """One shape of connection, seen twice."""

    shape: Shape
    plain: Replay
    kept: Replay


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with what was seen.")
def demo(as_json: bool) -> int:
    """Replay what happens to a connection limit when an unrelated rule is added, with iptables and with nfkeep.

    Needs root. Opens real connections through the real kernel, in network namespaces of its own, for some seconds; the
    host's rules are not touched and nothing stays. Exit status 0 only if plain iptables lost the counts, as it does,
    and nfkeep kept every one.
    """
    Namespace().close()  # without the right to this, nothing else need be said
    if not as_json:
        print(_PROBLEM, flush=True)  # it takes some seconds until there is more
    seen = _compare()
    good, verdict = judge(seen)
    if as_json:
        print(json.dumps(_object(seen, good=good, verdict=verdict), indent=2))
    else:
        Console().print(_table(seen))
        if good:
            print(verdict)
    if not good:
        print(f"nfkeep: {verdict}", file=sys.stderr)
    return 0 if good else 1


def judge(seen: list[Comparison]) -> tuple[bool, str]:
    """Whether the demo shows what it is to show, and the sentence that says so."""
    faults = [c.shape.name for c in seen if not c.kept.kept]
    if faults:
        return False, f"nfkeep did not keep the limit: {'; '.join(faults)}."
    if all(c.plain.kept for c in seen):
        release = os.uname().release
        return False, f"This kernel ({release}) keeps the counts by itself, so there is nothing that nfkeep could show."
    if silent := [c.shape.name for c in seen if not c.plain.lost]:
        return False, f"Plain iptables did not lose the counts here, so this shows nothing: {'; '.join(silent)}."
    most = max(c.plain.let_in + c.plain.more for c in seen)
    return (
        True,
        f"Plain iptables let in {most} where {LIMIT} are allowed; nfkeep kept every count and every connection.",
    )


_PROBLEM = f"""\
Every iptables command writes a whole table anew: connlimit forgets its counts.
{TRIED} are tried, {LIMIT} allowed; then somebody else is banned, and {TRIED} more are tried:
"""


def _compare() -> list[Comparison]:
    seen = []
    console = Console(stderr=True)
    with console.status("") as status:
        for shape in SHAPES:

            def look(change: Change, how: str, shape: Shape = shape) -> Replay:
                status.update(f"{shape.name}: {how}")
                return replay(shape, change)

            seen.append(Comparison(shape, look(by_iptables, "plain iptables"), look(by_nfkeep, "nfkeep")))
    return seen


def _table(seen: list[Comparison]) -> Table:
    table = Table()
    table.add_column("connections of one client", no_wrap=True)
    table.add_column("plain iptables", justify="right", no_wrap=True)
    table.add_column("nfkeep", justify="right", no_wrap=True)
    for comparison in seen:
        plain, kept = comparison.plain, comparison.kept
        table.add_row(f"[bold]{comparison.shape.name}[/bold]")
        table.add_row("  let in before the change", str(plain.let_in), str(kept.let_in))
        table.add_row("  let in on top of these after it", _judged(plain.more, 0), _judged(kept.more, 0))
        table.add_row(
            "  of the first, alive and carrying data", _judged(plain.alive, LIMIT), _judged(kept.alive, LIMIT)
        )
        table.add_row(
            f"  let in after {CLOSED} of the first have closed",
            _judged(plain.after_closing, CLOSED),
            _judged(kept.after_closing, CLOSED),
        )
        table.add_row("  new ones held off for", *map(_gate, (plain, kept)), end_section=True)
    return table


def _judged(count: int, right: int) -> str:
    return f"[{'green' if count == right else 'red'}]{count}[/]"


def _gate(seen: Replay) -> str:
    return "-" if seen.gate_seconds is None else f"{seen.gate_seconds * 1000:.0f} ms"


def _object(seen: list[Comparison], *, good: bool, verdict: str) -> dict[str, object]:
    return {
        "good": good,
        "verdict": verdict,
        "kernel": os.uname().release,
        "limit": LIMIT,
        "tried": TRIED,
        "closed": CLOSED,
        "shapes": [
            {
                "name": c.shape.name,
                "family": str(c.shape.family),
                "protocol": c.shape.kind,
                "chain": c.shape.chain,
                "plain": attrs.asdict(c.plain),
                "nfkeep": attrs.asdict(c.kept),
            }
            for c in seen
        ],
    }
