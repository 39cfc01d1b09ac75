"""Rules that nobody here wrote, translated and met by packets: the pairs of iptables-translate, and whole rulesets."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import attrs
import pytest
from corpus import FOLDER, Command, extension_file, extension_files, needs_corpus, needs_rulesets, rulesets

from nfkeep import Family, Fidelity, InvalidRuleError
from nfkeep.migrate import translate
from nfkeep.migrate.verify import Harness, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from corpus import Line

    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

CHAINS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
PROGRAMS = {"iptables-translate": Family.IPV4, "ip6tables-translate": Family.IPV6}
#: What docs/translate.md tells of: iptables-translate's form loads only where that interface is there already.
TOLD = {"libxt_TEE.txlate:10": "needs it to be there"}
_APPENDED = re.compile(r"(?:-[AI]|--append|--insert)")


@attrs.frozen
class Pair:
    """A command of iptables, as iptables-save text with its one rule."""

    where: str
    family: Family
    text: str

    def __str__(self) -> str:
        return self.where


def pairs() -> Iterator[Pair]:
    """The commands in the .txlate files; one without a target gets DROP, so that packets can tell."""
    for path in sorted((FOLDER / "extensions").glob("*.txlate")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            program, _, arguments = line.partition(" ")
            if program not in PROGRAMS:
                continue
            words = shlex.split(arguments)
            table = words.pop(words.index("-t") + 1) if "-t" in words else "filter"
            at = next((n for n, word in enumerate(words) if _APPENDED.fullmatch(word)), None)
            if at is None:
                continue
            chain = words[at + 1]
            rule = " ".join(map(_quoted, (w for n, w in enumerate(words) if n not in (at, at + 1) and w != "-t")))
            if not {"-j", "--jump", "-g"} & set(words):
                rule += " -j DROP"
            heads = [f":{name} ACCEPT [0:0]" for name in CHAINS[table]]
            if chain not in CHAINS[table]:
                heads.append(f":{chain} - [0:0]")
            text = "\n".join((f"*{table}", *heads, f"-A {chain} {rule}", "COMMIT", ""))
            yield Pair(f"{path.name}:{number}", PROGRAMS[program], text)


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[^\s\"'\\]+", word) else '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.fixture(scope="module")
def harness_of() -> Iterator[Callable[[Family], Harness]]:
    """The hosts for a family, made once."""
    made: dict[Family, Harness] = {}

    def of(family: Family) -> Harness:
        if family not in made:
            made[family] = Harness(family)
        return made[family]

    yield of
    for harness in made.values():
        harness.close()


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the shared corpus is not beside the project")
@pytest.mark.parametrize("pair", list(pairs()), ids=str)
def test_what_iptables_translate_knows_means_the_same_here(pair: Pair, harness_of: Callable[[Family], Harness]) -> None:
    """No packet meets anything else, whatever iptables-translate would make of it; nothing is lost, but as told."""
    translation = translate(pair.text, pair.family)
    lost = [loss for loss in translation.losses if loss.fidelity is Fidelity.LOST]
    packets = [] if any("once a tick" in loss.reason for loss in translation.losses) else 60  # told: one more or less
    try:
        differences = (
            harness_of(pair.family).compare(pair.text, "" if lost else translation.script, packets).differences
        )
    except Refused as refused:
        pytest.skip(f"this kernel does not take it: {refused}")
    if pair.where in TOLD:
        assert [TOLD[pair.where] in loss.reason for loss in lost] == [True]
    else:
        assert (lost, [str(each) for each in differences]) == ([], [])


@needs_corpus
@pytest.mark.parametrize("path", extension_files(), ids=lambda path: path.name)
def test_every_rule_of_the_extensions(path: Path, harness_of: Callable[[Family], Harness]) -> None:
    """What the kernel takes from iptables means the same in nft, unless the translation says what differs."""
    wrong = []
    for line in extension_file(path):
        if isinstance(line, Command) or not line.valid:
            continue
        for family in line.families:
            chain = line.chains[0].strip()
            text = f"*{line.table}\n:{chain} ACCEPT [0:0]\n-A {chain} {_told(line)}\nCOMMIT\n"
            try:
                translation = translate(text, family)
                packets = 40 if translation.exact else []  # a script with losses has to load, at least
                differences = harness_of(family).compare(text, translation.script, packets).differences
            except Refused as refused:
                if refused.side == "nft" and "NFQUEUE" not in text:  # this kernel has no queue for nft
                    wrong.append(f"{line}: {refused}")
            except InvalidRuleError as refused:
                wrong += [f"{line}: {refused}"] * _legacy_takes(text, harness_of(family))
            else:
                wrong += [f"{line}: {each}" for each in differences]
    assert wrong == []


def _told(line: Line) -> str:
    """The rule, with a verdict by which packets tell whether it matches, if it has no target."""
    ends = {"-j", "--jump", "-g", "--goto"} & set(line.rule.split())
    return line.rule if ends or line.table == "nat" else f"{line.rule} -j DROP"


def _legacy_takes(text: str, harness: Harness) -> bool:
    try:
        harness.compare(text, "", [])
    except (Refused, InvalidRuleError):
        return False
    return True


@needs_rulesets
@pytest.mark.parametrize("path", rulesets(), ids=lambda path: path.name)
@pytest.mark.parametrize("optimize", [False, True], ids=["as it is", "optimized"])
def test_real_rulesets(
    path: Path, optimize: bool, harness_of: Callable[[Family], Harness], namespace: Namespace
) -> None:
    """They load, and every packet meets the same: the rules that are lost taken out of both."""
    family = Family.IPV6 if path.suffix == ".v6" else Family.IPV4
    text = path.read_text(errors="surrogateescape")
    translation = translate(text, family, optimize=optimize)
    namespace.run(["nft", "-c", "-f", "-"], input=translation.script)
    lost = {loss.line for loss in translation.losses if loss.fidelity is Fidelity.LOST}
    kept = "\n".join("" if number in lost else line for number, line in enumerate(text.splitlines(), 1)) + "\n"
    script = translate(kept, family, optimize=optimize).script
    assert [str(each) for each in harness_of(family).compare(kept, script, 300).differences] == []
