"""How right the translation is: nfkeep beside iptables-restore-translate, over every valid rule of iptables' own tests.

Run as root, with a folder of .t and .txlate files (`extensions` of the sources of iptables): python
benchmarks/translators.py FOLDER. Each rule is translated alone; the script is loaded, and the same packets are sent
through the rule and through the script. With --wrong the rules that came out wrong are listed, too.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs

from nfkeep import Family, InvalidRuleError, NfkeepError, migrate
from nfkeep.migrate.verify import Harness, Refused

PACKETS = 150
_TRIES = 3  # a packet within a tick of the clock passes a limit by chance
TOOLS = {Family.IPV4: "iptables-restore-translate", Family.IPV6: "ip6tables-restore-translate"}
CAVEAT = "equal, with a caveat"
OUTCOMES = (
    "equal",
    CAVEAT,
    "differs, and says so",
    "left out, and says so",
    "left out, exit 0",
    "does not load",
    "WRONG",
)


@attrs.frozen
class Case:
    """One rule and where it stands."""

    family: Family
    table: str
    chain: str
    rule: str

    @property
    def text(self) -> str:
        """As iptables-save has it."""
        return f"*{self.table}\n:{self.chain} ACCEPT [0:0]\n-A {self.chain} {self.rule}\nCOMMIT\n"

    def __str__(self) -> str:
        return f"{self.family} -t {self.table} -A {self.chain} {self.rule}"


def cases(folder: Path) -> Iterator[Case]:
    """All valid rules: of .t files in the first of their chains, of .txlate files as the command says."""
    for path in sorted(folder.glob("lib*.t")):
        for family in families(path):
            table, chain = "filter", "INPUT"
            for line in path.read_text().splitlines():
                if line.startswith(":"):
                    chain = line[1:].split(",")[0].strip()
                elif line.startswith("*"):
                    table = line[1:].strip()
                elif line.count(";") >= 2 and line[0] not in "#@%" and line.split(";")[2].strip() == "OK":
                    yield Case(family, table, chain, line.split(";")[0].strip())
    command = re.compile(r"(ip6?tables)-translate (?:-t (\w+) )?-[AI] (\w+) (.*)")
    for path in sorted(folder.glob("lib*.txlate")):
        for line in path.read_text().splitlines():
            if found := command.fullmatch(line.partition(";")[0].strip()):
                family = Family.IPV6 if found[1] == "ip6tables" else Family.IPV4
                words = [word if word.isalnum() else f'"{word}"' for word in shlex.split(found[4])]
                yield Case(family, found[2] or "filter", found[3], " ".join(words))


def families(path: Path) -> tuple[Family, ...]:
    """The families that an extension is for."""
    kind = path.name.split("_")[0]
    both = (Family.IPV4, Family.IPV6)
    return {"libxt": both, "libipt": both[:1], "libip6t": both[1:]}.get(kind, ())


def ours(case: Case) -> tuple[str | None, str]:
    """The script of nfkeep, None without one; and what that would be called at best."""
    try:
        done = migrate.translate(case.text, case.family)
    except InvalidRuleError:
        return None, "left out, and says so"
    if any(loss.fidelity.value == "lost" for loss in done.losses):
        return None, "left out, and says so"
    return done.script, "equal" if done.exact else CAVEAT


def theirs(case: Case) -> tuple[str | None, str]:
    """The same of iptables-restore-translate, which says something by its exit status only."""
    with tempfile.NamedTemporaryFile("w", suffix=".rules") as file:
        file.write(case.text)
        file.flush()
        done = subprocess.run([TOOLS[case.family], "-f", file.name], capture_output=True, text=True, check=False)
    if done.returncode:
        return None, "left out, and says so"
    if not re.search(r"^add rule", done.stdout, re.MULTILINE):
        return None, "left out, exit 0"
    return done.stdout, "equal"


def outcome(harness: Harness, case: Case, script: str | None, said: str) -> str:
    """One of OUTCOMES; "" where this kernel has no such rule of iptables, so that nothing can be compared."""
    try:
        for _ in range(_TRIES if "limit" in case.rule else 1):
            comparison = harness.compare(case.text, script or "", PACKETS if script is not None else [])
            if not comparison.differences:
                break
    except Refused as refused:
        return "" if refused.side == "iptables" else "does not load"
    except NfkeepError:
        return ""
    if not comparison.differences:
        return said
    return "differs, and says so" if said == CAVEAT else "WRONG"


def main(folder: Path, *, wrong: bool) -> None:
    """Try all and print the table."""
    counted: dict[str, Counter[str]] = {"nfkeep": Counter(), "iptables-restore-translate": Counter()}
    everything = list(dict.fromkeys(cases(folder)))
    harnesses = {family: Harness(family) for family in Family}
    for case in everything:
        for name, translator in (("nfkeep", ours), ("iptables-restore-translate", theirs)):
            found = outcome(harnesses[case.family], case, *translator(case))
            counted[name][found] += 1
            if wrong and found in ("WRONG", "does not load"):
                print(f"{name}: {found}: {case}", flush=True)
    for harness in harnesses.values():
        harness.close()
    print(f"{len(everything)} rules, {counted['nfkeep']['']} of which this kernel has not")
    print(f"{'':<24}{'nfkeep':>10}{'iptables-restore-translate':>30}")
    for each in OUTCOMES:
        print(f"{each:<24}{counted['nfkeep'][each]:>10}{counted['iptables-restore-translate'][each]:>30}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), wrong="--wrong" in sys.argv[2:])
