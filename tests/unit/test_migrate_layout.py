"""What a single nft rule cannot choose between is laid out as chains, at no change of meaning."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from nfkeep import Family
from nfkeep.migrate import parts
from nfkeep.migrate.layout import Action, Chain, Layout
from nfkeep.migrate.names import identifier, original
from nfkeep.migrate.parts import NEVER, AnyOf, NoneOf, Statement
from nfkeep.migrate.translation import translate

A, B, C = (parts.Test("meta mark", (text,)) for text in ("0x1", "0x2", "0x3"))
DROP = Action((Statement("counter"), Statement("drop")))
RETURN = Action((Statement("counter"), Statement("return")), leaves=True)
FURTHER = Statement("further")


class Book:
    """The chains that a layout makes."""

    def __init__(self) -> None:
        self.chains: dict[str, Chain] = {}
        self.layout = Layout(self.made("main"), self.made)

    def made(self, name: str) -> Chain:
        while name in self.chains:
            name += "+"
        self.chains[name] = Chain(name)
        return self.chains[name]

    def text(self) -> dict[str, list[str]]:
        return {name: [str(line) for line in chain.lines] for name, chain in self.chains.items()}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((A, B), {"main": ["meta mark 0x1 meta mark 0x2 counter drop"]}),
        ((AnyOf(((A,), (B,))),), {"main": ["meta mark { 0x1, 0x2 } counter drop"]}),
        ((AnyOf(((A, B),)),), {"main": ["meta mark 0x1 meta mark 0x2 counter drop"]}),
        ((NoneOf(()),), {"main": ["counter drop"]}),
        ((NEVER,), {"main": ["# line 7: no packet matches this rule"]}),
        ((NoneOf(((),)),), {"main": ["# line 7: no packet matches this rule"]}),
        (
            (C, NoneOf(((A,), (B,)))),
            {
                "main": ["meta mark 0x3 jump main-rule"],
                "main-rule": ["meta mark 0x1 return", "meta mark 0x2 return", "counter drop"],
            },
        ),
        (
            (AnyOf(((A, C), (B,))), C),
            {
                "main": ["jump main-rule"],
                "main-rule": ["meta mark 0x1 meta mark 0x3 goto main-rule+", "meta mark 0x2 goto main-rule+"],
                "main-rule+": ["meta mark 0x3 counter drop"],
            },
        ),
    ],
)
def test_rules_and_choices(given: tuple[object, ...], expected: dict[str, list[str]]) -> None:
    """Parts that are simple make one rule; a choice a set, or a chain whose ways go on or return."""
    book = Book()
    book.layout.add(given, DROP, 7)  # type: ignore[arg-type]
    assert book.text() == expected


def test_a_rule_that_leaves_takes_the_rest_of_its_chain_with_it() -> None:
    """A return out of a helper would come out behind the rule; so what does not match goes to the rest of the chain."""
    book = Book()
    book.layout.add((C, NoneOf(((A,), (B,)))), RETURN, 1)
    book.layout.add((A,), DROP, 2)
    assert book.text() == {
        "main": ["meta mark 0x3 goto main-rule", "goto main-rest"],
        "main-rule": [
            "meta mark 0x1 goto main-rest", "meta mark 0x2 goto main-rest", "counter return", "goto main-rest",
        ],
        "main-rest": ["meta mark 0x1 counter drop"],
    }  # fmt: skip


def test_what_a_target_does_in_several_rules() -> None:
    """Each row begins anew, behind the rule's own conditions and its counter."""
    book = Book()
    action = Action((Statement("counter"),), rows=((A, FURTHER), (B, FURTHER)))
    book.layout.add((C,), action, 1)
    assert book.text() == {
        "main": ["meta mark 0x3 counter jump main-rule"],
        "main-rule": ["meta mark 0x1 further", "meta mark 0x2 further"],
    }


def test_sets_of_many_rules_have_one_name() -> None:
    """nft makes a nameless set for every rule otherwise."""
    ports = "-p tcp -m multiport --dports 80,443,8000:8080"
    rules = [f"-A INPUT -s 192.0.2.{n}/32 {ports} -j DROP" for n in range(4)]
    text = translate("\n".join(["*filter", ":INPUT ACCEPT [0:0]", *rules, "COMMIT", ""])).script
    assert text.count("8000-8080") == 1
    assert text.count("tcp dport @tcp-dport") == 4


@hypothesis.given(st.text(min_size=1, max_size=28), st.text(min_size=1, max_size=28))
def test_names_stay_apart_and_can_be_read_back(one: str, other: str) -> None:
    """Whatever a chain is called, nft has a name for it, and no two chains share one."""
    assert original(identifier(one)) == one
    assert (identifier(one) == identifier(other)) == (one == other)
    assert identifier(one).isascii()


@pytest.mark.parametrize("word", ["log", "tcp", "2ban", "A+B", "ü", "x_", "a b", "-", "$x", "counter"])
def test_names_that_nft_cannot_read_are_mangled(word: str) -> None:
    """They begin with x_, and so do those that begin with it already."""
    assert identifier(word).startswith("x_")


def test_ordinary_names_stay() -> None:
    """Most names are what they were."""
    assert [identifier(name) for name in ("f2b-sshd", "DOCKER-USER", "ufw-before-input")] == [
        "f2b-sshd",
        "DOCKER-USER",
        "ufw-before-input",
    ]


def test_every_chain_has_its_policy_and_its_counters() -> None:
    """Also tables of IPv6, and the nat chains at their own priorities."""
    text = "*nat\n:PREROUTING ACCEPT [1:60]\n:POSTROUTING DROP [2:120]\nCOMMIT\n"
    script = translate(text, Family.IPV6).script
    assert "table ip6 nat {" in script
    assert "type nat hook prerouting priority -100; policy accept;" in script
    assert "type nat hook postrouting priority 100; policy drop;" in script
    assert 'counter packets 2 bytes 120 comment "policy"' in script
