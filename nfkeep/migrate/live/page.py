"""The plan as one HTML page, for people: what is in the way and what is lost first, then every rule, old beside new.

The page needs nothing but itself, and lets nothing else run: its policy names its own style and script by their hashes.
Its filter keeps its state behind the # of the address: `#lost`, `#ipv6&nat&q=dport 22`.
"""

from __future__ import annotations

import base64
import collections
import hashlib
import itertools
from importlib.resources import files
from typing import TYPE_CHECKING

import attrs

from nfkeep.keep.report import Fidelity
from nfkeep.migrate.counterparts import Counterpart
from nfkeep.migrate.live.markup import Html, element, joined, raw
from nfkeep.migrate.source import read_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nfkeep.migrate.live.plan import Plan
    from nfkeep.migrate.loss import Loss
    from nfkeep.model import Family

_TITLE = "Plan of the move from iptables to nftables"
_WORST_FIRST = tuple(reversed(Fidelity))
_EXACT = "exact"
_KINDS = (str(Fidelity.LOST), str(Fidelity.APPROXIMATED), _EXACT)
_POLICY = "policy"
_AT_A_GLANCE = 5  # links to rules that have the same loss; more of them fold away


@attrs.frozen(slots=True)
class _Row:
    """A line of iptables-save beside what it became. `number`: which rule of its chain it is, or "policy"."""

    family: Family
    line: int
    table: str
    chain: str
    number: str
    text: str
    became: Counterpart

    @property
    def place(self) -> str:
        return " ".join(filter(None, (str(self.family), self.table, self.chain, self.number)))

    @property
    def anchor(self) -> str:
        return f"{_word(self.family)}-{self.line}"

    @property
    def kind(self) -> str:
        found = {loss.fidelity for loss in self.became.losses}
        return next((str(each) for each in _WORST_FIRST if each in found), _EXACT)


def html(plan: Plan) -> str:
    """The page, which is to be written as UTF-8; whatever the host has put into names and comments is text in it."""
    rows = list(_rows(plan))
    style, script = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src {_hashed(style)}; script-src {_hashed(script)};"
        " base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", _TITLE),
        element("style", raw(style)),
        element("script", raw(script)),
    )
    body = element(
        "body",
        element("h1", _TITLE),
        *_summary(plan, rows),
        *_obstacles(plan),
        *_losses(plan, rows),
        *_states(plan),
        *_owners(plan),
        *_rules(rows),
        *_script(plan),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _rows(plan: Plan) -> Iterator[_Row]:
    """Each base chain's policy, then the chain's rules; at the end what the translation has added."""
    for family, text in plan.host.rules.items():
        lines, became = text.split("\n"), plan.translations[family].counterparts()
        nothing = Counterpart()
        for table in read_source(text, family).tables:
            for chain in table.chains:
                entries = [(_POLICY, chain.line)] if chain.policy is not None else []
                entries += [(str(number), rule.line) for number, rule in enumerate(chain.rules, 1)]
                for number, line in entries:
                    old = lines[line - 1].strip()
                    yield _Row(family, line, table.name, chain.name, number, old, became.get(line, nothing))
        if 0 in became:
            yield _Row(family, 0, "", "", "added", "", became[0])


def _summary(plan: Plan, rows: Sequence[_Row]) -> Iterator[Html]:
    """How many rules there are of each family and kind; policies are not counted."""
    kinds = collections.Counter((row.family, row.kind) for row in rows if row.number.isdecimal())
    body = []
    for family in plan.host.rules:
        counted = [kinds[family, kind] for kind in _KINDS]
        body.append(_line(family, *map(str, (sum(counted), *counted))))
    if body:
        yield _table("Rules of iptables on this host", ("family", "rules", *_KINDS), body)


def _obstacles(plan: Plan) -> Iterator[Html]:
    yield element("h2", "In the way", id="obstacles")
    for each in plan.obstacles:
        yield element("p", each, class_="obstacle")
    if plan.lost:
        yield element("p", "Rules are lost: apply wants --accept-losses.", class_="obstacle")
    if not plan.obstacles and not plan.lost:
        yield element("p", "Nothing: the move can be made.")


def _losses(plan: Plan, rows: Sequence[_Row]) -> Iterator[Html]:
    """One row for each reason, with all the rules that it holds for."""
    yield element("h2", "Rules that nft does not take as they are", id="losses")
    at = {(row.family, row.line): row for row in rows}
    found: dict[tuple[Fidelity, str, str], dict[Html, None]] = {}
    for family, translation in plan.translations.items():
        for line, became in translation.counterparts().items():
            for loss in became.losses:
                row = at.get((family, line))
                where = element("a", row.place, href=f"#{row.anchor}") if row else joined([f"{family} {loss.part}"])
                found.setdefault((loss.fidelity, loss.reason, loss.advice), {})[where] = None
    if not found:
        yield element("p", "None: every rule means the same in nft.")
        return
    worst_first = sorted(found.items(), key=_badness)
    body = [_line(fidelity, _folded([*places]), reason, advice) for (fidelity, reason, advice), places in worst_first]
    yield _table("What is not exact, and what to do about it", ("is", "rules", "why", "what to do"), body)


def _badness(entry: tuple[tuple[Fidelity, str, str], object]) -> int:
    return _WORST_FIRST.index(entry[0][0])


def _folded(places: Sequence[str]) -> Html:
    """One below the other, at most so many of them open."""
    lines = [element("div", each) for each in places]
    if len(lines) <= _AT_A_GLANCE + 1:
        return joined(lines)
    more = element("summary", f"and {len(lines) - _AT_A_GLANCE} more")
    return joined([*lines[:_AT_A_GLANCE], element("details", more, *lines[_AT_A_GLANCE:])])


def _states(plan: Plan) -> Iterator[Html]:
    found: dict[tuple[Fidelity, str, str], list[str]] = {}
    for each in plan.outcomes:
        found.setdefault((each.fidelity, each.kind, each.detail), []).append(each.where)
    if found:
        yield element("h2", "What becomes of the state", id="states")
        worst_first = sorted(found.items(), key=_badness)
        body = [_line(fidelity, _folded(where), kind, how) for (fidelity, kind, how), where in worst_first]
        yield _table("What rules have in memory, after the move", ("is", "where", "state", "how"), body)


def _owners(plan: Plan) -> Iterator[Html]:
    if plan.owners:
        yield element("h2", "Programs that change these rules", id="owners")
        yield element("p", "What they add to the tables of iptables after the move is not in force.")
        body = [
            element("tr", *(element("td", each) for each in (owner.program, owner.by, owner.advice)))
            for owner in plan.owners
        ]
        yield _table("Whose rules these are, and what to change there", ("program", "told by", "what to do"), body)


def _line(head: Fidelity | Family, *cells: str) -> Html:
    first = element("th", str(head), scope="row", class_="is")
    return element("tr", first, *(element("td", each) for each in cells), class_=_word(head))


def _table(caption: str, headings: Sequence[str], body: Iterable[Html]) -> Html:
    first, *others = headings
    heads = [element("th", first, scope="col", class_="narrow"), *(element("th", each, scope="col") for each in others)]
    return element(
        "table", element("caption", caption), element("thead", element("tr", *heads)), element("tbody", *body)
    )


def _rules(rows: Sequence[_Row]) -> Iterator[Html]:
    yield element("h2", "Every rule, old beside new", id="every-rule")
    groups = (
        ("is", "Only what is", _KINDS),
        ("family", "Only family", dict.fromkeys(str(row.family) for row in rows)),
        ("table", "Only table", dict.fromkeys(row.table for row in rows if row.table)),
    )
    search = element("input", type="search", name="q", autocomplete="off", spellcheck="false")
    yield element(
        "form",
        element("label", element("div", "Only with this text"), search),
        *(
            element("fieldset", element("legend", legend), *map(_box, words), name=name)
            for name, legend, words in groups
        ),
        element("button", "Show all", type="reset"),
        id="filter",
        role="search",
        hidden=True,
    )
    yield element("p", id="shown", role="status")
    yield element(
        "table",
        element("caption", "Each line of iptables-save -c, and the rules of nft that stand for it"),
        element(
            "thead",
            element(
                "tr",
                element("th", "is", scope="col", class_="narrow"),
                element("th", "where", scope="col", class_="place"),
                element("th", "iptables", scope="col"),
                element("th", "nftables", scope="col"),
            ),
        ),
        element("tbody", *map(_rule, rows)),
        id="rules",
    )
    yield element(
        "p",
        element("button", "Lines before these", id="previous", type="button"),
        " ",
        element("button", "Lines behind these", id="next", type="button"),
        id="sheets",
        hidden=True,
    )


def _box(word: str) -> Html:
    return element("label", element("input", type="checkbox", value=word.lower()), f" {word}")


def _rule(row: _Row) -> Html:
    return joined(
        [
            "\n",
            element(
                "tr",
                element("td", row.kind, class_="is"),
                element("th", " ", row.place, " ", scope="row"),
                element("td", element("code", row.text) if row.text else "no line of iptables asks for it"),
                element("td", *_new(row), *map(_why, row.became.losses)),
                id=row.anchor,
                class_=row.kind,
                data_is=row.kind,
                data_family=_word(row.family),
                data_table=row.table,
            ),
        ]
    )


def _new(row: _Row) -> Iterator[Html]:
    for (table, chain, base), rules in itertools.groupby(
        row.became.rules, lambda each: (each.table, each.chain, each.base)
    ):
        yield element("span", f"{table} {chain}", class_="in")
        texts = [rule.text for rule in rules]
        yield element("code", "\n".join([base, *texts] if row.number == _POLICY else texts))


def _why(loss: Loss) -> Html:
    advice = element("div", f"What to do: {loss.advice}") if loss.advice else ""
    return element("div", element("strong", str(loss.fidelity)), f": {loss.part}: {loss.reason}", advice, class_="why")


def _script(plan: Plan) -> Iterator[Html]:
    if plan.script:
        yield element("h2", "The script", id="script")
        yield element("details", element("summary", "Everything, as nft reads it"), element("pre", plan.script))


def _word(name: Fidelity | Family) -> str:
    return str(name).lower()
