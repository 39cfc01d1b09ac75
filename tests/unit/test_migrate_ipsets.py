"""Sets of ipset as sets of nft: what `ipset save` says, read and written."""

from __future__ import annotations

import pytest
from twins import filter_table

from nfkeep import Family
from nfkeep.errors import InvalidRuleError
from nfkeep.keep.report import Fidelity
from nfkeep.migrate import Translation, translate


def of(sets: str, *rules: str, family: Family = Family.IPV4) -> Translation:
    return translate(filter_table(list(rules)), family, ipsets=sets)


def elements(translation: Translation, name: str) -> list[str]:
    """The elements of a set."""
    body = translation.script.split(f"set {name} {{")[1].split("\n\t}")[0]
    inside = body.partition("elements = {")[2].partition("}")[0]
    return [text.strip() for text in inside.replace("\n", " ").split(",") if text.strip()]


def body(translation: Translation, name: str) -> list[str]:
    """What a set's declaration says before its elements."""
    text = translation.script.split(f"set {name} {{")[1].split("\n\t}")[0].partition("elements")[0]
    return [line.strip() for line in text.splitlines() if line.strip()]


def rules_in(translation: Translation, chain: str) -> list[str]:
    """The rules of a chain of the script, without that of its policy."""
    lines = translation.script.split(f"chain {chain} {{")[1].split("\n\t}")[0].splitlines()
    found = [line.strip() for line in lines if line.strip() and not line.strip().startswith(("#", "type "))]
    return [line for line in found if "policy" not in line]


NETS = "create n hash:net family inet\n"
ELEMENTS = {
    "addresses": ("create n hash:ip\nadd n 10.0.0.1\nadd n 10.0.0.9\n", ["10.0.0.1", "10.0.0.9"]),
    "masked": ("create n hash:ip netmask 24\nadd n 10.0.0.0\n", ["10.0.0.0"]),
    "timeouts": (
        'create n hash:ip timeout 300 comment\nadd n 10.0.0.1 timeout 37 comment "bad"\nadd n 10.0.0.2 timeout 0\n',
        ['10.0.0.1 timeout 37s comment "bad"', "10.0.0.2"]),
    "counters": (
        "create n hash:ip counters\nadd n 10.0.0.1 packets 3 bytes 99\n", ["10.0.0.1 counter packets 3 bytes 99"]),
    "apart": (f"{NETS}add n 10.0.0.0/8\nadd n 11.0.0.0/24\n", ["10.0.0.0/8", "11.0.0.0/24"]),
    "within": (f"{NETS}add n 10.0.0.0/8\nadd n 10.1.0.0/16\n", ["10.0.0.0/8"]),
    "exception": (
        f"{NETS}add n 10.0.0.0/30\nadd n 10.0.0.1 nomatch\n", ["10.0.0.0", "10.0.0.2/31"]),
    "exception of an exception": (
        f"{NETS}add n 10.0.0.0/29\nadd n 10.0.0.0/30 nomatch\nadd n 10.0.0.1\n", ["10.0.0.1", "10.0.0.4/30"]),
    "the longest of timeouts": (
        "create n hash:net timeout 9\nadd n 10.0.0.0/30 timeout 5\nadd n 10.0.0.0/31 timeout 8\n",
        ["10.0.0.0/31 timeout 8s", "10.0.0.2/31 timeout 5s"]),
    "a range": (f"{NETS}add n 10.0.0.1-10.0.0.4\n", ["10.0.0.1", "10.0.0.2/31", "10.0.0.4"]),
    "the ends": (f"{NETS}add n 0.0.0.0/1\nadd n 128.0.0.0/1\n", ["0.0.0.0/1", "128.0.0.0/1"]),
}  # fmt: skip


@pytest.mark.parametrize(("sets", "expected"), ELEMENTS.values(), ids=ELEMENTS)
def test_elements_are_what_ipset_matches(sets: str, expected: list[str]) -> None:
    """Each element as it is, and networks within each other as the ranges that match."""
    found = of(sets, "-m set --match-set n src -j DROP")
    assert (elements(found, "n"), found.exact) == (expected, True)


TYPES = {
    "hash:ip": ("src", "type ipv4_addr", "ip saddr @n", "10.0.0.1"),
    "hash:net": ("dst", "type ipv4_addr", "ip daddr @n", "10.0.0.0/8"),
    "hash:mac": ("src", "type ether_addr", "ether saddr @n", "00:11:22:33:44:55"),
    "hash:ip,port": (
        "src,dst", "type ipv4_addr . inet_proto . inet_service", "ip saddr . meta l4proto . th dport @n",
        "10.0.0.1,tcp:80"),
    "hash:net,port": (
        "dst,src", "type ipv4_addr . inet_proto . inet_service", "ip daddr . meta l4proto . th sport @n",
        "10.0.0.0/8,udp:53"),
    "hash:ip,port,ip": (
        "src,dst,dst", "type ipv4_addr . inet_proto . inet_service . ipv4_addr",
        "ip saddr . meta l4proto . th dport . ip daddr @n", "10.0.0.1,tcp:80,10.0.0.2"),
    "hash:net,net": ("src,dst", "type ipv4_addr . ipv4_addr", "ip saddr . ip daddr @n", "10.0.0.0/8,10.1.0.0/16"),
    "hash:ip,mark": ("src,src", "type ipv4_addr . mark", "ip saddr . meta mark @n", "10.0.0.1,0x10"),
    "hash:ip,mac": (
        "src,src", "type ipv4_addr . ether_addr", "ip saddr . ether saddr @n", "10.0.0.1,00:11:22:33:44:55"),
    "hash:net,iface": ("src,src", "type ipv4_addr . ifname", "ip saddr . iifname @n", "10.0.0.0/8,eth0"),
    "bitmap:ip range 10.0.0.0-10.0.0.255": ("src", "type ipv4_addr", "ip saddr @n", "10.0.0.1"),
    "bitmap:port range 0-1024": (
        "dst", "type inet_service", "meta l4proto { tcp, udp, sctp, udplite } th dport @n", "80"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "expected"), TYPES.items())
def test_each_type_has_its_key(kind: str, expected: tuple[str, str, str, str]) -> None:
    """The type of ipset, as the type of nft, and what of a packet is looked up."""
    sides, of_nft, test, element = expected
    found = of(f"create n {kind}\nadd n {element}\n", f"-m set --match-set n {sides} -j DROP")
    assert (body(found, "n")[0], rules_in(found, "OUTPUT")) == (of_nft, [f"{test} counter drop"])


def test_icmp_and_protocols_without_ports_are_looked_up_by_what_they_have() -> None:
    """ICMP by type and code, others by zero."""
    sets = "create n hash:ip,port\nadd n 10.0.0.1,icmp:echo-request\nadd n 10.0.0.1,gre:0\nadd n 10.0.0.1,80\n"
    found = of(sets, "-m set --match-set n src,dst -j DROP")
    assert elements(found, "n") == ["10.0.0.1 . icmp . 2048", "10.0.0.1 . 47 . 0", "10.0.0.1 . tcp . 80"]
    assert len(rules_in(found, "OUTPUT-rule1")) == 3


NEVER = {
    "another family": ("create n hash:ip family inet6\nadd n fd00::1\n", "src"),
    "too few directions": ("create n hash:ip,port\nadd n 10.0.0.1,tcp:80\n", "src"),
}


@pytest.mark.parametrize(("sets", "sides"), NEVER.values(), ids=NEVER)
def test_what_the_kernel_never_finds_is_never_found(sets: str, sides: str) -> None:
    """Such a look-up fails always, and its opposite never."""
    found = of(sets, f"-m set --match-set n {sides} -j DROP", f"-m set ! --match-set n {sides} -j ACCEPT")
    assert rules_in(found, "OUTPUT") == ["counter accept"]


def test_a_list_is_its_members() -> None:
    """Each member is looked up, and the tables of all that share one become one table."""
    sets = f"create a hash:ip\nadd a 10.0.0.1\n{NETS}add n 10.1.0.0/16\ncreate l list:set\nadd l a\nadd l n\n"
    raw = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m set --match-set a src -j DROP\nCOMMIT\n"
    found = translate(filter_table(["-m set ! --match-set l src -j DROP"]) + raw, ipsets=sets)
    assert rules_in(found, "filter-OUTPUT-rule1")[:2] == ["ip saddr @a return", "ip saddr @n return"]
    assert found.script.count("set a {") == 1


CHANGES = {
    "--add-set s src": "add @s { ip saddr timeout 300s }",
    "--add-set s src --exist": "update @s { ip saddr timeout 300s }",
    "--add-set s dst --exist --timeout 9": "update @s { ip daddr timeout 9s }",
    "--add-set s src --timeout 0": "add @s { ip saddr timeout 36500d0s }",
    "--del-set s src": "delete @s { ip saddr }",
}


@pytest.mark.parametrize(("options", "expected"), CHANGES.items())
def test_a_rule_changes_a_set(options: str, expected: str) -> None:
    """With --exist a timeout begins anew, without it does not; for ever is a hundred years."""
    found = of("create s hash:ip timeout 300 maxelem 9\n", f"-j SET {options}")
    assert (rules_in(found, "OUTPUT-rule1"), body(found, "s")[1:3]) == ([expected], ["size 9", "flags dynamic,timeout"])


@pytest.mark.parametrize("rule", ["-p udp --destination-port domain -m set ! --match-set s src -j SET --add-set s dst"])
def test_rules_written_by_hand_are_read_without_the_set(rule: str) -> None:
    """What libxtables cannot read, as it asks the kernel for the set, stays as it is; it reads the rest."""
    found = of("create s hash:ip\n", rule)
    assert rules_in(found, "OUTPUT") == [
        "ip frag-off & 0x1fff == 0 udp dport 53 ip saddr != @s counter jump OUTPUT-rule1"
    ]


LOST = {
    "no create line": ("add s 10.0.0.1\n", "-m set --match-set s src", "no create line"),
    "exceptions that expire": (
        "create s hash:net timeout 9\nadd s 10.0.0.0/8 timeout 0\nadd s 10.1.0.0/16 timeout 5 nomatch\n",
        "-m set --match-set s src", "change with time"),
    "counters": ("create s hash:ip counters\n", "-m set --match-set s src --packets-gt 5", "counter of an element"),
    "marks": ("create s hash:ip skbinfo\n", "-j SET --map-set s src --map-mark", "skbmark"),
    "networks": ("create s hash:net\n", "-j SET --add-set s src", "from a rule"),
    "bridges": ("create s hash:net,iface\nadd s 10.0.0.0/8,physdev:e\n", "-m set --match-set s src,src", "bridge"),
    "a missing member": ("create s list:set\nadd s t\n", "-m set --match-set s src", "not known"),
    "members that expire": (
        "create t hash:ip\ncreate s list:set timeout 9\nadd s t timeout 5\n", "-m set --match-set s src", "expire"),
    "MACs to be learnt": (
        "create s bitmap:ip,mac range 10.0.0.0/24\nadd s 10.0.0.1\n", "-m set --match-set s src,src", "missing"),
    "unknown": ("create s hash:new\nadd s 10.0.0.1\n", "-m set --match-set s src", "nothing is known"),
}  # fmt: skip


@pytest.mark.parametrize(("sets", "rule", "words"), LOST.values(), ids=LOST)
def test_what_nft_cannot_express_is_lost(sets: str, rule: str, words: str) -> None:
    """The rule is lost, with the reason."""
    table = filter_table([f"{rule} -j DROP" if "-m" in rule.split() else rule]).replace("filter", "mangle")
    (loss,) = translate(table, ipsets=sets).losses
    assert loss.fidelity is Fidelity.LOST
    assert words in loss.reason


def test_text_that_is_none_of_ipset_is_refused() -> None:
    """The message names the line."""
    with pytest.raises(InvalidRuleError, match="line 2 of the sets"):
        of("create s hash:ip\nrm -rf\n", "-j ACCEPT")


def test_nothing_from_elsewhere_gets_into_the_script_unchecked() -> None:
    """Names are mangled, comments lose their quotes, and elements have to be what they say."""
    sets = "create 2;flush hash:ip comment\nadd 2;flush 10.0.0.1 comment 'a\"; }'\n"
    found = of(sets, "-m set --match-set 2;flush src -j DROP")
    assert "set x_2_3bflush {" in found.script
    assert "a'; }" in found.script
    bad = of("create s hash:ip\nadd s 10.0.0.1;flush\n", "-m set --match-set s src -j DROP")
    assert [loss.fidelity for loss in bad.losses] == [Fidelity.LOST]


SPELLINGS = {
    "many": ("hash:ip timeout 600", [f"10.0.{n // 250}.{n % 250 + 1} timeout {n}" for n in range(1000)]),
    "one": ("hash:ip timeout 600", ["10.0.0.1 timeout 5"]),
    "none expires": ("hash:ip", [f"10.0.0.{n + 1}" for n in range(200)]),
    "some expire": ("hash:ip timeout 600", ["10.0.0.1 timeout 0", "10.0.0.2 timeout 7", "10.0.0.3 timeout 600"]),
    "IPv6": ("hash:ip family inet6 timeout 600", [f"2001:db8::{n + 1:x} timeout {n + 1}" for n in range(300)]),
    "none": ("hash:ip timeout 600", []),
    "twice": ("hash:ip timeout 600", ["10.0.0.1 timeout 5", "10.0.0.2 timeout 6", "10.0.0.1 timeout 7"]),
    "nobody": ("hash:ip", ["0.0.0.0", "10.0.0.1"]),
    "nobody of IPv6": ("hash:ip family inet6", ["::", "2001:db8::1"]),
    "other zeros": ("hash:ip family inet6", ["2001:db8:0::1", "2001:DB8::2"]),
    "for long": ("hash:ip timeout 600", ["10.0.0.1 timeout 100000000", "10.0.0.2 timeout 99999999"]),
    "a range": ("hash:ip", ["10.0.0.1-10.0.0.3", "10.0.0.9"]),
    "a network": ("hash:ip", ["10.0.0.0/30"]),
    "a mask": ("hash:ip netmask 24", ["10.0.1.0", "10.0.2.0"]),
    "comments": ("hash:ip comment", ['10.0.0.1 comment "add n 10.0.0.2"', "10.0.0.3"]),
    "counters": ("hash:ip counters", ["10.0.0.1 packets 1 bytes 2", "10.0.0.3"]),
    "networks": ("hash:net", ["10.0.0.1", "10.0.1.0/24"]),
}


@pytest.mark.parametrize(("kind", "members"), SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("rule", ["-m set --match-set n src -j DROP", "-j SET --add-set n src"])
def test_in_bulk_as_one_by_one(kind: str, members: list[str], rule: str) -> None:
    """Elements that are read in bulk become what they become one by one, which a word for the command has them be."""
    family = Family.IPV6 if "inet6" in kind else Family.IPV4
    around = "create a hash:net\nadd a 10.0.0.0/8\n", "create z hash:ip\nadd z 10.9.9.9\n"
    bulk, single = (
        "".join((around[0], f"create n {kind}\n", *(f"add n {each}{word}\n" for each in members), around[1]))
        for word in ("", " -exist")
    )
    found, expected = of(bulk, rule, family=family), of(single, rule, family=family)
    assert (found.script, found.losses) == (expected.script, expected.losses)


@pytest.mark.parametrize(
    "text",
    [
        "add n 10.0.0.9 timeout 9\ncreate n hash:ip timeout 600\nadd n 10.0.0.1 timeout 5\n",
        "create n hash:ip timeout 600\nadd n 10.0.0.1 timeout 5\ncreate z hash:ip\nadd n 10.0.0.9 timeout 9\n",
        "create n hash:ip timeout 600\nadd n 10.0.0.1 timeout 5\n# a word\nadd n 10.0.0.9 timeout 9\n",
        "create n hash:ip timeout 600\nadd n 10.0.0.1 timeout 5\nadd n 10.0.0.9 timeout 9",
        "create n hash:ip timeout 600\r\nadd n 10.0.0.1 timeout 5\r\nadd n 10.0.0.9 timeout 9\r\n",
    ],
)
def test_elements_anywhere(text: str) -> None:
    """Where the lines are that add to a set does not matter."""
    found = elements(of(text, "-m set --match-set n src -j DROP"), "n")
    assert sorted(found) == ["10.0.0.1 timeout 5s", "10.0.0.9 timeout 9s"]


@pytest.mark.parametrize("number", [1, 4, 5])
def test_the_line_of_a_fault(number: int) -> None:
    """It is told by its number, whatever is before it."""
    lines = ["create n hash:ip", "add n 10.0.0.1", "add n 10.0.0.2", "create z hash:ip", "add z 10.0.0.3"]
    lines.insert(number - 1, "what")
    with pytest.raises(InvalidRuleError, match=f"line {number} "):
        of("\n".join([*lines, ""]))
