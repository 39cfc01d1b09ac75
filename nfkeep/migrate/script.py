"""The script: tables, their objects and chains, as text that `nft -f` reads and people can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

POLICY = "policy"
"""The comment of the rule at the end of a base chain that counts what meets the policy."""

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nfkeep.migrate.context import Declaration
    from nfkeep.migrate.layout import Chain


@attrs.frozen(slots=True)
class NftTable:
    """One table of the script. `origins` are the tables of iptables that it stands for."""

    family: str
    name: str
    origins: tuple[str, ...]
    declarations: tuple[Declaration, ...]
    chains: tuple[Chain, ...]


def script_text(tables: Sequence[NftTable], remarks: Sequence[str], *, members: bool = True) -> str:
    """The whole script. Each table takes the place of one of its name, as iptables-restore does it."""
    lines = [f"# {_printable(each)}" for each in remarks]
    for table in tables:
        lines += ["", *table_lines(table, members=members)]
    return "\n".join(lines) + "\n"


def table_lines(table: NftTable, *, anew: bool = True, asleep: bool = False, members: bool = True) -> Iterator[str]:
    """The lines that make a table; `members`: with the elements that come from ipset.

    `anew`: it takes the place of one of its name, not only adds to it; `asleep`: it is a dormant one.
    """
    if anew:
        yield f"table {table.family} {table.name}"
        yield f"delete table {table.family} {table.name}"
    yield f"table {table.family} {table.name} {{"
    if asleep:
        yield "\tflags dormant"
    for declaration in table.declarations:
        yield f"\t{declaration.kind} {declaration.name} {{"
        yield from (f"\t\t{line}" for line in declaration.body)
        if members and declaration.members and (lines := list(declaration.members.lines())):
            yield "\t\telements = {"
            yield from (f"\t\t\t{line}" for line in lines)
            yield "\t\t}"
        yield "\t}"
        yield ""
    for number, chain in enumerate(table.chains):
        if number:
            yield ""
        if chain.origin:
            yield f"\t# {_printable(chain.origin)}"
        yield f"\tchain {chain.name} {{"
        if chain.base:
            yield f"\t\t{chain.base}"
        yield from (f"\t\t{_printable(str(line))}" if line.remark else f"\t\t{line}" for line in chain.lines)
        yield "\t}"
    yield "}"


def _printable(text: str) -> str:
    """One line that stays one: no control characters, no backslash at its end."""
    return "".join(c if c.isprintable() else "?" for c in text).rstrip("\\")
