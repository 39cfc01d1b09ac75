"""Rules that the nft variant of iptables has made: tables of nft, of which its own tool tells what they mean."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from nfkeep.errors import InvalidRuleError, NfkeepError
from nfkeep.migrate.live.commands import NFT_FAMILY, run_tool
from nfkeep.migrate.source import read_source
from nfkeep.model import Family
from nfkeep.xtables.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from nfkeep.migrate.source import SourceTable

_COMMAND = {Family.IPV4: "iptables-nft-save", Family.IPV6: "ip6tables-nft-save"}
# iptables/nft.c, nft_assert_table_compatible(): of the second kind it prints what is its own, as if there was no more.
_OTHERS = re.compile(r"^# Table `(\w+)' (?:is incompatible|contains incompatible)", re.MULTILINE)


def read_rules(family: Family, there: Collection[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
    """The rules of a family with their counters, and the tables, as (family, name), that are the variant's own.

    `there`: the tables of nft to look at. A table that lets everything pass is not in the text, and one to which
    somebody has written what the variant cannot print is not among its own.
    """
    wanted = {(NFT_FAMILY[family], name) for name in TABLES} & set(there)
    if not wanted or not _is_installed(_COMMAND[family]):
        return "", []
    text = run_tool([_COMMAND[family], "-c"])
    try:
        tables = read_source(text, family).tables
    except InvalidRuleError as error:
        raise NfkeepError(f"{_COMMAND[family]}: {error}") from None
    wanted -= {(NFT_FAMILY[family], name) for name in _OTHERS.findall(text)}
    own = [table for table in tables if (NFT_FAMILY[family], table.name) in wanted]
    lines = text.splitlines(keepends=True)
    speaking = [lines_of(table, lines) for table in own if _says_anything(table)]
    return "".join(speaking), [(NFT_FAMILY[family], table.name) for table in own]


def _is_installed(command: str) -> bool:
    import shutil  # which loads compressors

    return shutil.which(command) is not None


def refused_by_legacy(tables: Iterable[str], family: Family) -> str:
    """Why there cannot be legacy tables of these names: what their tool says, in a namespace of its own; "" if so."""
    from nfkeep.namespaces import Namespace  # not by those who have no tables of iptables-nft

    command = "ip6tables-legacy-restore" if family is Family.IPV6 else "iptables-legacy-restore"
    text = "".join(f"*{name}\nCOMMIT\n" for name in tables)
    with contextlib.closing(Namespace()) as namespace, namespace:
        try:
            run_tool([command], text)
        except NfkeepError as error:
            return str(error)
    return ""


def _says_anything(table: SourceTable) -> bool:
    return any(chain.rules or chain.policy != "ACCEPT" for chain in table.chains)


def lines_of(table: SourceTable, lines: list[str]) -> str:
    """Those of a table, of all lines of the text that it was read from."""
    end = next(at for at in range(table.line, len(lines)) if lines[at].strip() == "COMMIT")
    return "".join(lines[table.line - 1 : end + 1])
