"""The page of a plan: every rule is on it, what is lost comes first, and nothing that a host says is more than text."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

import pytest
from hosts import HOSTILE, OUTCOMES, hostile_rules, plan, text
from hypothesis import given
from hypothesis import strategies as st
from page_tree import parsed

from nfkeep import Family
from nfkeep.migrate.live import page
from nfkeep.migrate.live.markup import element
from nfkeep.migrate.live.owners import Owner

if TYPE_CHECKING:
    from page_tree import Element

EXACT, LOST, NEARLY = (
    "[7:420] -A INPUT -s 192.0.2.1/32 -j ACCEPT",
    "-A INPUT -m no_such_match -j DROP",
    "-A INPUT -p tcp -m tcp --dport 22 -j DROP",
)

OWNERS = (Owner("Docker", "chain DOCKER", "use nft"),)


def shown(*rules: str, family: Family = Family.IPV4) -> Element:
    """The page for a table filter with these rules."""
    return parsed(page.html(plan({family: text(*rules)})))


def rows(tree: Element) -> list[list[str]]:
    """Kind, place, old and new of each row of the table of all rules."""
    body = tree.the("table", id="rules").the("tbody")
    return [[cell.text.strip() for cell in row.inside] for row in body.all("tr")]  # type: ignore[union-attr]


def test_old_beside_new() -> None:
    """Each line of iptables-save has its row, the policy too, with what stands for it and in which chain that is."""
    assert rows(shown(EXACT)) == [
        [
            "exact", "IPv4 filter INPUT policy", ":INPUT ACCEPT [0:0]",
            "ip filter INPUTtype filter hook input priority 0; policy accept;\n"
            'counter packets 0 bytes 0 comment "policy"',
        ],
        [
            "exact", "IPv4 filter INPUT 1", EXACT,
            "ip filter INPUTip saddr 192.0.2.1 counter packets 7 bytes 420 accept",
        ],
    ]  # fmt: skip


def test_helper_chains_are_beside_their_rule() -> None:
    """Each chain is named above what stands in it."""
    row = shown("-A INPUT -p tcp -m multiport --ports 1,2 -j DROP").the("tr", id="ipv4-3")
    chains = [each.text for each in row.all("span", class_="in")]
    assert chains == ["ip filter INPUT", "ip filter INPUT-rule1", "ip filter INPUT-rule2"]
    assert [code.text for code in row.all("code")][-1] == "counter drop"


def test_a_loss_has_its_reason_and_advice() -> None:
    """In place of the rule of nft, or below it."""
    tree = shown(LOST, NEARLY)
    lost, nearly = tree.the("tr", id="ipv4-3"), tree.the("tr", id="ipv4-4")
    assert "lost: rule: " in lost.text
    assert "What to do: " in lost.text
    assert [code.text for code in lost.all("code")] == [LOST]
    assert "approximated: fragments: " in nearly.text
    assert next(nearly.all("code")).text == NEARLY
    assert len(list(nearly.all("code"))) == 2


def test_what_the_filter_goes_by() -> None:
    """Each row says what it is, of which family and table, in words that there are boxes for."""
    rules = {Family.IPV4: text(EXACT, LOST), Family.IPV6: text(table="nat", chain=":OUTPUT ACCEPT [0:0]")}
    tree = parsed(page.html(plan(rules)))
    boxes = {
        field.attributes["name"]: [box.attributes["value"] for box in field.all("input")]
        for field in tree.the("form").all("fieldset")
    }
    assert boxes == {
        "is": ["lost", "approximated", "exact"],
        "family": ["ipv4", "ipv6"],
        "table": ["filter", "nat"],
    }
    body = tree.the("table", id="rules").the("tbody")
    assert [[row.attributes[f"data-{name}"] for name in boxes] for row in body.all("tr")] == [
        ["exact", "ipv4", "filter"],
        ["exact", "ipv4", "filter"],
        ["lost", "ipv4", "filter"],
        ["exact", "ipv6", "nat"],
    ]


def test_what_matters_comes_first() -> None:
    """What is in the way, what is lost before what is nearly the same, the state, who else edits, then the rules."""
    made = plan(
        {Family.IPV4: text(NEARLY, LOST)}, OUTCOMES, (Owner("Docker", "chain DOCKER", "use nft"),), ("nft has a table",)
    )
    tree = parsed(page.html(made))
    assert [each.attributes["id"] for each in tree.all("h2")] == [
        "obstacles", "losses", "states", "owners", "every-rule", "script",
    ]  # fmt: skip
    assert [each.text for each in tree.all("p", class_="obstacle")] == [
        "nft has a table", "Rules are lost: apply wants --accept-losses.",
    ]  # fmt: skip
    first_cells = [[row.inside[0].text for row in each.the("tbody").all("tr")] for each in tree.all("table")]  # type: ignore[union-attr]
    assert first_cells[1:3] == [["lost", "approximated"], ["lost", "approximated", "restored"]]
    assert "Dockerchain DOCKERuse nft" in tree.text
    assert tree.the("pre").text == made.script


def test_one_reason_has_all_its_rules() -> None:
    """They are links to the rows, and all but a few fold away."""
    tree = shown(*[NEARLY] * 20)
    (row,) = list(tree.all("table"))[1].the("tbody").all("tr")
    links = [each.attributes["href"] for each in row.all("a")]
    assert links == [f"#ipv4-{line}" for line in range(3, 23)]
    ids = [each.attributes["id"] for each in tree.the("table", id="rules").all("tr") if "id" in each.attributes]
    assert set(links) <= {f"#{each}" for each in ids}
    assert row.the("summary").text == "and 15 more"


def test_the_summary_counts_rules() -> None:
    """By family and kind, policies left out."""
    (row,) = next(shown(EXACT, LOST, NEARLY, NEARLY).all("table")).the("tbody").all("tr")
    assert [cell.text for cell in row.inside] == ["IPv4", "4", "1", "2", "1"]  # type: ignore[union-attr]


def test_what_no_rule_asked_for_is_shown_too() -> None:
    """A rule of nft that has connections tracked belongs to no line."""
    rows_ = rows(shown("-A INPUT -m conntrack --ctstate NEW -m no_such_match -j DROP"))
    assert rows_[-1][:3] == ["exact", "IPv4 added", "no line of iptables asks for it"]
    assert "ct state 0" in rows_[-1][3]


def test_a_host_without_rules() -> None:
    """The page says what is in the way, and has an empty table."""
    tree = parsed(page.html(plan({}, obstacles=("there are no rules",))))
    assert tree.the("p", class_="obstacle").text == "there are no rules"
    assert rows(tree) == []


def hostile_page() -> str:
    """All that is hostile wherever a host's words go."""
    made = plan(
        {Family.IPV4: text(*hostile_rules())},
        OUTCOMES,
        tuple(Owner(each, each, each) for each in HOSTILE),
        HOSTILE,
    )
    return page.html(made)


def elements(tree: Element) -> dict[str, set[str]]:
    """The names of all elements, each with the names of its attributes."""
    found: dict[str, set[str]] = {}
    for each in tree.all():
        found.setdefault(each.name, set()).update(each.attributes)
    return found


def test_hostile_text_is_text() -> None:
    """It makes no element and no attribute that a harmless host's page would not have."""
    harmless = plan({Family.IPV4: text(EXACT, LOST, *[NEARLY] * 9)}, OUTCOMES, OWNERS, ("in the way",))
    expected = elements(parsed(page.html(harmless)))
    hostile = elements(parsed(hostile_page()))
    assert hostile.keys() <= expected.keys()
    assert {name: names - expected[name] for name, names in hostile.items()} == {name: set() for name in hostile}


@pytest.mark.parametrize("given_text", [each for each in HOSTILE if each.isprintable()], ids=repr)
def test_hostile_text_is_readable(given_text: str) -> None:
    """What is printable stands there as it is."""
    tree = parsed(hostile_page())
    assert f'-A INPUT -m comment --comment "{given_text}" -j ACCEPT' in [each.text for each in tree.all("code")]
    assert given_text in [each.text for each in tree.all("p", class_="obstacle")]


def test_what_cannot_be_seen_is_spelled_out() -> None:
    """No control character, nothing that turns the reading order around, no half of a character gets into the page."""
    made = hostile_page()
    made.encode()
    assert [c for c in made if not c.isprintable() and c not in "\n\t"] == []
    for seen in (r"\u202edrawkcab\u2066", r"caf\udce9", r"\x1b[31m\x7f\xa0"):
        assert seen in made


@given(st.text(st.characters(codec=None), max_size=20))
def test_any_text_is_text(anything: str) -> None:
    """Inside an element and in an attribute, whatever it is."""
    tree = parsed(element("p", anything, title=anything))
    assert [each.name for each in tree.all()] == ["p"]
    only = tree.the("p")
    assert set(only.attributes) == {"title"}
    if anything.isprintable():
        assert (only.text, only.attributes["title"]) == (anything, anything)


def test_nothing_but_its_own_script_may_run() -> None:
    """The policy has the hashes of the one style and the one script, and allows nothing else."""
    tree = parsed(hostile_page())
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(tree.the(name).text.encode()).digest()).decode()}'"
        for name in ("style", "script")
    ]
    policy = tree.the("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    assert policy == (
        f"default-src 'none'; style-src {hashes[0]}; script-src {hashes[1]}; base-uri 'none'; form-action 'none'"
    )


def test_the_page_needs_nothing_else() -> None:
    """There is no address in it but those of its own rows."""
    tree = shown(EXACT, LOST, NEARLY)
    for each in tree.all():
        assert {"src", "action", "style"}.isdisjoint(each.attributes)
        assert (each.attributes.get("href") or "#").startswith("#")
    assert re.findall(r"url\(|@import|https?:|innerHTML|document\.write|eval\(", page.html(plan({}))) == []


def test_people_who_listen_get_the_same() -> None:
    """Every input has a label, every heading of a table its scope, every table a caption; the language is given."""
    tree = shown(EXACT, LOST, NEARLY)
    assert tree.the("html").attributes["lang"] == "en"
    labelled = [field for label in tree.all("label") if label.text.strip() for field in label.all("input")]
    assert labelled == list(tree.all("input"))
    assert {each.attributes.get("scope") for each in tree.all("th")} == {"col", "row"}
    assert all(each.the("caption").text for each in tree.all("table"))
    assert all(each.the("legend").text for each in tree.all("fieldset"))
