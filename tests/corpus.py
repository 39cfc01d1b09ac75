"""The shared corpus of rules, read from beside the project if it is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from nfkeep import Family

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "corpus"


@attrs.frozen
class Line:
    """One line of a .t file of iptables: a rule, what it prints as, whether it is valid, and where it may stand."""

    file: str
    rule: str
    printed: str
    valid: bool
    table: str
    chains: tuple[str, ...]

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that the extension is for; those for both are written down for IPv4."""
        if self.file.startswith("libip6t_"):
            return (Family.IPV6,)
        return (Family.IPV4,) if self.file.startswith(("libipt_", "iptables")) else tuple(Family)


def extension_lines() -> Iterator[Line]:
    """All rule lines of the corpus' .t files; none without the corpus."""
    for path in sorted(FOLDER.glob("extensions/*.t")):
        table, chains = "filter", ("INPUT",)
        for line in path.read_text().splitlines():
            if line.startswith(":"):
                chains = tuple(line[1:].split(","))
            elif line.startswith("*"):
                table = line[1:].strip()
            elif line and line[0] not in "#%@":
                rule, printed, verdict = line.split(";")[:3]
                yield Line(path.name, rule, rule if printed == "=" else printed, verdict == "OK", table, chains)


needs_corpus = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the corpus of rules is not beside the project (../shared/corpus)"
)
