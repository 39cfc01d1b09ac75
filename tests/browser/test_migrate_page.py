"""The page of a plan in Chromium: the filter hides what it is to hide, and what a host says does not run."""

from __future__ import annotations

import functools
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hosts import HOSTILE, OUTCOMES, hostile_rules, plan, text
from page_tree import parsed

from nfkeep import Family
from nfkeep.migrate.live import page
from nfkeep.migrate.live.owners import Owner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from page_tree import Element

    Browse = Callable[[str, str], Element]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; tox -e browser installs it")
SHEET = 250  # as in page.js

RULES = {
    Family.IPV4: text(
        "-A INPUT -s 192.0.2.1/32 -j ACCEPT",
        "-A INPUT -m no_such_match --x web -j DROP",
        '-A INPUT -p tcp -m tcp --dport 22 -m comment --comment "Web & more" -j DROP',
    )
    + text("-A OUTPUT -p tcp -j DNAT --to-destination 192.0.2.2", table="nat", chain=":OUTPUT ACCEPT [0:0]"),
    Family.IPV6: text("-A INPUT -s 2001:db8::1/128 -j ACCEPT"),
}


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """What a browser has made of a page that it was given with this fragment, scripts run."""

    def opened(made: str, fragment: str) -> Element:
        path = tmp_path / "plan.html"
        path.write_text(made, encoding="utf-8")
        assert CHROMIUM is not None
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
        done = subprocess.run(
            [*command, "--dump-dom", f"{path.as_uri()}#{fragment}"], capture_output=True, check=True, timeout=60
        )
        return parsed(done.stdout.decode())

    return opened


@functools.cache
def mixed() -> str:
    """A page with rules of several kinds, families and tables."""
    return page.html(plan(RULES))


def visible(tree: Element) -> list[str]:
    """The ids of the rows that are shown."""
    return [row.attributes["id"] or "" for row in tree.the("table", id="rules").all("tr", class_="shown")]


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("", ["ipv4-2", "ipv4-3", "ipv4-4", "ipv4-5", "ipv4-8", "ipv4-9", "ipv6-2", "ipv6-3"]),
        ("lost", ["ipv4-4"]),
        ("exact&ipv6", ["ipv6-2", "ipv6-3"]),
        ("nat", ["ipv4-8", "ipv4-9"]),
        ("nat&ipv6", []),
        ("nat&filter&q=accept [", ["ipv4-2", "ipv4-8", "ipv6-2"]),
        ("q=web", ["ipv4-4", "ipv4-5"]),
        ("q=WEB%20%26%20MORE", ["ipv4-5"]),
        ("lost&q=web", ["ipv4-4"]),
        ("q=<img src=x>", []),
        ("ipv4-4", ["ipv4-2", "ipv4-3", "ipv4-4", "ipv4-5", "ipv4-8", "ipv4-9", "ipv6-2", "ipv6-3"]),
    ],
)
def test_the_filter(browse: Browse, fragment: str, expected: list[str]) -> None:
    """Boxes of one group widen each other, groups and text narrow; the page says how many lines fit."""
    tree = browse(mixed(), fragment)
    assert visible(tree) == expected
    assert tree.the("p", id="shown").text == f"{len(expected)} of 8 lines."
    assert "hidden" not in tree.the("form").attributes


def test_a_long_list_is_shown_by_sheets(browse: Browse) -> None:
    """The first sheet at once; the one with the rule that a link leads to; and the text of all is looked through."""
    made = page.html(plan({Family.IPV4: text(*[f"-A INPUT -s 10.0.{n // 250}.{n % 250}/32" for n in range(2000)])}))
    first, linked, found = (browse(made, fragment) for fragment in ("", "ipv4-1500", "q=10.0.7.77/32"))
    assert visible(first) == [f"ipv4-{line}" for line in range(2, 2 + SHEET)]
    assert first.the("p", id="shown").text == f"2001 of 2001 lines; here are 1 to {SHEET} of them."
    assert len(visible(linked)) == SHEET
    assert "ipv4-1500" in visible(linked)
    assert visible(found) == [f"ipv4-{3 + 7 * 250 + 77}"]


@pytest.mark.parametrize(
    ("acts", "fragment", "expected"),
    [
        ("box('lost').click()", "#lost", ["ipv4-4"]),
        ("box('lost').click(); box('lost').click()", "", ["ipv4-2", "ipv4-3"]),
        ("q.value = ' Web & '; q.dispatchEvent(new Event('input', {bubbles: true}))", "#q=Web%20%26", ["ipv4-5"]),
        ("box('ipv6').click(); location.hash = 'lost'", "#lost", ["ipv4-4"]),
        ("box('ipv6').click(); document.forms[0].reset()", "", ["ipv4-2", "ipv4-3"]),
        ("box('ipv6').click(); document.forms[0].requestSubmit()", "#ipv6", ["ipv6-2", "ipv6-3"]),
    ],
)
def test_what_is_done_is_kept_in_the_address(browse: Browse, acts: str, fragment: str, expected: list[str]) -> None:
    """A box, typing, the address and the button for all change what is shown, and the address says what that is."""
    tree = browse(acted(mixed(), acts), "")
    assert tree.the("title").text == fragment
    assert visible(tree)[:2] == expected


def test_leafing(browse: Browse) -> None:
    """On to the next sheet and back; beyond the last one there is nothing to go to."""
    made = page.html(plan({Family.IPV4: text(*["-A INPUT -s 192.0.2.1/32"] * (2 * SHEET))}))
    once, there, back = (
        browse(acted(made, acts), "")
        for acts in ("next.click()", "next.click(); next.click()", "next.click(); previous.click()")
    )
    assert visible(once) == [f"ipv4-{line}" for line in range(2 + SHEET, 2 + 2 * SHEET)]
    assert visible(there) == [f"ipv4-{2 + 2 * SHEET}"]
    assert "disabled" in there.the("button", id="next").attributes
    assert visible(back) == [f"ipv4-{line}" for line in range(2, 2 + SHEET)]
    assert "disabled" in back.the("button", id="previous").attributes


def acted(made: str, acts: str) -> str:
    """The page with somebody in it who does this, and then puts the fragment of the address into the title."""
    script = f"""<script>addEventListener("load", () => {{
        const box = (word) => document.querySelector(`[value=${{word}}]`);
        const q = document.forms[0].elements.q;
        const [next, previous] = ["next", "previous"].map((id) => document.getElementById(id));
        {acts};
        setTimeout(() => document.title = location.hash);
    }})</script>"""
    return made.replace("Content-Security-Policy", "x-none").replace("</body>", f"{script}</body>")


def hostile() -> str:
    """A page with hostile text wherever a host's words go."""
    made = plan(
        {Family.IPV4: text(*hostile_rules())}, OUTCOMES, tuple(Owner(each, each, each) for each in HOSTILE), HOSTILE
    )
    return page.html(made)


@pytest.mark.parametrize("fragment", ["", "q=<script>document.title='owned'</script>"])
def test_what_a_host_says_does_not_run(browse: Browse, fragment: str) -> None:
    """The browser sees no element in it, and the page has its own title."""
    tree = browse(hostile(), fragment)
    assert tree.the("title").text == "Plan of the move from iptables to nftables"
    assert {"img", "svg", "b"}.isdisjoint(each.name for each in tree.all())
    assert len(list(tree.all("script"))) == 1
    assert "lines" in tree.the("p", id="shown").text


@pytest.mark.parametrize(
    "planted",
    ["<script>document.title = 'owned'</script>", "<img src=x: onerror=\"document.title = 'owned'\">"],
    ids=["script", "handler"],
)
def test_the_policy_is_in_force(browse: Browse, planted: str) -> None:
    """Even what got into the page unescaped would not run, while the page's own script does; without it, it would."""
    with_policy = mixed().replace("<h1>", f"{planted}<h1>")
    without = with_policy.replace("Content-Security-Policy", "x-none")
    assert browse(with_policy, "lost").the("title").text == "Plan of the move from iptables to nftables"
    assert visible(browse(with_policy, "lost")) == ["ipv4-4"]
    assert browse(without, "lost").the("title").text == "owned"
