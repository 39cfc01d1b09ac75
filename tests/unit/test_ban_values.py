"""What a list does, in words and as rules: words come back as they were said, and rules say what was meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfkeep import InvalidListError
from nfkeep.bans.nft_rules import hit_rules, lookup, read_label, read_policy, set_label
from nfkeep.bans.values import Action, Kind, Policy, Rejection, Service, check_name, services
from nfkeep.nft.ruleset import (
    Bitwise,
    Compare,
    Counter,
    Ct,
    CtKey,
    Lookup,
    Range,
    Reject,
    RejectType,
    Relation,
    Verdict,
)

SERVICES = {
    "22/tcp": [(6, 22, 22)],
    "ssh/tcp": [(6, 22, 22)],
    "ssh": [(6, 22, 22)],
    "53": [(6, 53, 53), (17, 53, 53)],
    "domain": [(6, 53, 53), (17, 53, 53)],
    "1000-2000/udp": [(17, 1000, 2000)],
    "1000:2000/UDP": [(17, 1000, 2000)],
    "http,https 8080/tcp": [(6, 80, 80), (6, 443, 443), (17, 443, 443), (6, 8080, 8080)],
    "icmp": [(1, 0, 65535)],
    "icmpv6 tcp": [(58, 0, 65535), (6, 0, 65535)],
    "0/tcp": [(6, 0, 0)],
    "65535/sctp": [(132, 65535, 65535)],
    "": [],
}


@pytest.mark.parametrize("words", SERVICES)
def test_services(words: str) -> None:
    """Ports by number and by name, ranges, protocols; without a protocol both that have such a port."""
    assert services(words) == tuple(sorted(Service(*each) for each in SERVICES[words]))
    assert services(words.replace(",", " ").split()) == services(words)


@pytest.mark.parametrize(
    "word",
    ["x", "22/icmp", "22/", "/tcp", "65536/tcp", "-1/tcp", "30-20/tcp", "1-2-3/tcp", "22/tcp/udp", "٢٢/tcp", "22 ;",
     "\0",
     "9" * 5000, "22/" + "t" * 5000, "ssh\n", "tcp/22"],
    ids=lambda word: repr(word)[:20],
)  # fmt: skip
def test_no_services(word: str) -> None:
    """What is no service is an error that is not longer than what it says."""
    with pytest.raises(InvalidListError) as raised:
        services([word])
    assert len(str(raised.value)) < 300


policies = st.builds(
    Policy,
    st.sampled_from(Action),
    st.lists(
        st.one_of(
            st.builds(Service, st.sampled_from([1, 58, 47, 50, 51])),
            st.tuples(st.sampled_from([6, 17, 132, 33, 136]), st.integers(0, 65535), st.integers(0, 65535)).map(
                lambda each: Service(each[0], *sorted(each[1:]))
            ),
        ),
        max_size=5,
    ).map(lambda some: tuple(sorted(set(some)))),
    st.sampled_from(Rejection),
    st.booleans(),
)


@given(policies)
def test_policy_in_words(policy: Policy) -> None:
    """A policy is read back from its words, and from the comments of its rules."""
    read = Policy.parse(str(policy))
    assert str(read) == str(policy)
    if policy.action is Action.REJECT:
        assert read == policy
    assert read_policy(comment for comment, _ in hit_rules(policy)) == read


@pytest.mark.parametrize(
    "text", ["", "kill", "accept", "drop 22", "drop reject", "reject:bomb", "drop 99999/tcp", "\0"]
)
def test_no_policy(text: str) -> None:
    """Words that are none are an error; "drop 22" is one, of TCP and UDP."""
    if text == "drop 22":
        assert str(Policy.parse(text)) == "drop 22/tcp 22/udp"
        return
    with pytest.raises(InvalidListError):
        Policy.parse(text)


def test_labels() -> None:
    """What a set is for can be read from its name."""
    assert read_label(set_label(Kind.HOST4)) == (Kind.HOST4, 0)
    assert read_label(set_label(Kind.HOST6)) == (Kind.HOST6, 0)
    for prefix in range(129):
        assert read_label(set_label(Kind.NET6, prefix)) == (Kind.NET6, prefix)
    for text in ("", "v5", "net4", "net4/", "net4/x", "net5/8", "v4/8"):
        assert read_label(text) is None


def test_lookup_of_networks() -> None:
    """The bits behind the prefix are cleared before a network is looked up."""
    _, rule = lookup("ban/x/net4/20", "net4/20", Verdict.ACCEPT)
    assert Bitwise(bytes([255, 255, 240, 0]), bytes(4)) in rule
    assert rule[-2:] == (Lookup("ban/x/net4/20"), Verdict.ACCEPT)
    _, rule = lookup("ban/x/net6/0", "net6/0", Verdict.ACCEPT)
    assert Bitwise(bytes(16), bytes(16)) in rule


def test_ports_before_nat() -> None:
    """A port is looked at where the packet goes, and as the client dialled it, but not in replies to ourselves."""
    rules = dict(hit_rules(Policy(services=services(["22/tcp", "30-40/udp"]))))
    assert Compare(Relation.EQ, b"\0\x16") in rules["22/tcp"]
    assert Range(Relation.EQ, b"\0\x1e", b"\0\x28") in rules["30-40/udp"]
    before = rules["30-40/udp before NAT"]
    direction = before.index(Ct(CtKey.DIRECTION))
    assert before[direction + 1] == Compare(Relation.EQ, b"\0")
    assert Ct(CtKey.PROTO_DST, original=True) in before
    assert all(rule[-2:] == (Counter(), Verdict.DROP) for comment, rule in rules.items() if "list" not in comment)


def test_resets_are_for_tcp() -> None:
    """Where resets are asked for, what is not TCP is told by ICMP."""
    rules = dict(hit_rules(Policy(Action.REJECT, rejection=Rejection.TCP_RESET)))
    assert rules["all tcp"][-1] == Reject(RejectType.TCP_RESET)
    assert rules["all"][-1] == Reject(RejectType.ICMPX, 1)
    rules = dict(hit_rules(Policy(Action.REJECT, services(["53"]), Rejection.TCP_RESET)))
    assert rules["53/tcp"][-1] == Reject(RejectType.TCP_RESET)
    assert rules["53/udp"][-1] == Reject(RejectType.ICMPX, 1)


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "a\n", "ä", "a" * 65, 'a"', "a;b", "\0"])
def test_no_names(name: str) -> None:
    """A list's name is letters, digits and three signs, and does not begin with one of these."""
    with pytest.raises(InvalidListError):
        check_name(name, 64)


def test_names() -> None:
    """These are names, also where nft has a word for it."""
    for name in ("a", "sshd", "3proxy", "drop", "apache-auth_2.4", "A" * 64):
        check_name(name, 64)
