"""The shared corpus of rules, read from beside the project if it is there, or from the folder in NFKEEP_CORPUS.

Its `extensions` are test files of iptables (`iptables-test.py` beside their originals defines the format), its
`rulesets` are texts of iptables-save.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from nfkeep import Family
from nfkeep.namespaces import Namespace

FOLDER = Path(os.environ.get("NFKEEP_CORPUS") or Path(__file__).resolve().parents[2] / "shared" / "corpus")

IPTABLES = {Family.IPV4: "iptables-legacy", Family.IPV6: "ip6tables-legacy"}


@attrs.frozen
class Line:
    """One line of a .t file of iptables: a rule, what it prints as, whether it is valid, and where it may stand."""

    file: str
    number: int
    rule: str
    printed: str
    valid: bool
    table: str
    chains: tuple[str, ...]

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that the extension is for; what is for both is written down for IPv4."""
        return families(self.file)

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.rule}"


@attrs.frozen
class Command:
    """Something to do before the lines that follow it can be tried."""

    words: tuple[str, ...]

    def run(self, namespace: Namespace, family: Family) -> None:
        """Do it; a program that is not here, or that fails, leaves iptables to refuse those lines."""
        name = IPTABLES[family] if self.words[0] == "iptables" else self.words[0]
        try:
            namespace.run([name, *self.words[1:]], check=False)
        except FileNotFoundError:
            return


def families(file: str) -> tuple[Family, ...]:
    """The families that a .t file is about; none for those of arptables and ebtables."""
    of = {"libip6t": (Family.IPV6,), "libipt": (Family.IPV4,), "libarpt": (), "libebt": ()}
    return of.get(file.split("_")[0], (Family.IPV4, Family.IPV6))


def extension_files() -> list[Path]:
    """The .t files that are about iptables or ip6tables; none without the corpus."""
    return [path for path in sorted(FOLDER.glob("extensions/*.t")) if families(path.name)]


def extension_file(path: Path) -> Iterator[Line | Command]:
    """What a .t file has, in order."""
    table, chains = "filter", ("INPUT",)
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith(":"):
            chains = tuple(line[1:].strip().split(","))
        elif line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(("@", "%")):
            yield Command(tuple(shlex.split(line[1:])))
        elif line.strip() and not line.startswith("#"):
            rule, printed, *verdict = line.split(";")
            printed = rule if printed == "=" else printed
            yield Line(path.name, number, rule, printed.strip(), _for_legacy(*verdict), table, chains)


def extension_lines() -> Iterator[Line]:
    """All rule lines of the corpus' .t files; none without the corpus."""
    for path in extension_files():
        yield from (item for item in extension_file(path) if isinstance(item, Line))


def rulesets() -> list[Path]:
    """Texts of iptables-save (.v4) and ip6tables-save (.v6)."""
    return sorted(path for path in FOLDER.glob("rulesets/*.v[46]"))


def _for_legacy(verdict: str, variant: str = "LEGACY", otherwise: str | None = None) -> bool:
    """Whether iptables-legacy takes a line; with a variant, the verdict is of that one only."""
    if variant.strip() == "LEGACY":
        return verdict.strip() != "FAIL"
    return (otherwise.strip() != "FAIL") if otherwise is not None else verdict.strip() == "FAIL"


needs_corpus = pytest.mark.skipif(
    not extension_files(), reason="the corpus of rules is not beside the project (../shared/corpus)"
)
needs_rulesets = pytest.mark.skipif(
    not rulesets(), reason="the corpus of rulesets is not beside the project (../shared/corpus)"
)
