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


def script_text(tables: Sequence[NftTable], remarks: Sequence[str]) -> str:
    """The whole script. Each table takes the place of one of its name, as iptables-restore does it."""
    lines = [f"# {_printable(each)}" for each in remarks]
    for table in tables:
        lines += ["", f"table {table.family} {table.name}", f"delete table {table.family} {table.name}"]
        lines += [f"table {table.family} {table.name} {{", *_inside(table), "}"]
    return "\n".join(lines) + "\n"


def _inside(table: NftTable) -> Iterator[str]:
    for declaration in table.declarations:
        yield f"\t{declaration.kind} {declaration.name} {{"
        yield from (f"\t\t{line}" for line in declaration.body)
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


def _printable(text: str) -> str:
    """One line that stays one: no control characters, no backslash at its end."""
    return "".join(c if c.isprintable() else "?" for c in text).rstrip("\\")
