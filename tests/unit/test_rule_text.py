"""Rule text into bytes and back, for every extension that the installed iptables has."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys

import pytest
from corpus import Line, extension_lines, needs_corpus
from hypothesis import given
from hypothesis import strategies as st

from nfkeep import Family, InvalidRuleError, Rule
from nfkeep.xtables.entry import decode
from nfkeep.xtables.text import split

SPLITS = {
    "words": ("-s  1.2.3.4\t-j DROP", ["-s", "1.2.3.4", "-j", "DROP"]),
    "double quotes": ('--comment "a b"', ["--comment", "a b"]),
    "single quotes": ("--comment 'a \" b'", ["--comment", 'a " b']),
    "escapes as iptables-save writes them": (r'--comment "a\"b\\c\'d"', ["--comment", "a\"b\\c'd"]),
    "a backslash elsewhere": (r"--hex \x", ["--hex", r"\x"]),
    "empty": ('--log-prefix ""', ["--log-prefix", ""]),
    "glued": ('a"b c"d', ["ab cd"]),
    "nothing": ("  ", []),
}


@pytest.mark.parametrize(("text", "words"), SPLITS.values(), ids=SPLITS)
def test_splitting(text: str, words: list[str]) -> None:
    """Quotes group as iptables-save and a shell use them."""
    assert split(text) == words


PRINTED = {
    "a source": ("-s 203.0.113.9 -j DROP", "-s 203.0.113.9/32 -j DROP"),
    "an implied match": ("-p tcp --dport ssh -j ACCEPT", "-p tcp -m tcp --dport 22 -j ACCEPT"),
    "a number for a protocol": ("-p 6 --dport 22", "-p tcp -m tcp --dport 22"),
    "negations": ("! -s 10.0.0.0/8 ! -i eth+ ! -p udp ! -f", "! -s 10.0.0.0/8 ! -i eth+ ! -p udp ! -f"),
    "a mask with holes": ("-s 10.0.7.0/255.0.255.0", "-s 10.0.7.0/255.0.255.0"),
    "any interface": ("-i + -o eth0", "-o eth0"),
    "no interface": ("! -i + -o eth0", "! -i + -o eth0"),
    "with the family said": ("-4 -s 192.0.2.1 --ipv4", "-s 192.0.2.1/32"),
    "a jump": ("-j f2b-sshd", "-j f2b-sshd"),
    "a chain named as no file may be": ("-j ../x", "-j ../x"),
    "a goto": ("-g f2b-sshd", "-g f2b-sshd"),
    "no target": ("-p udp", "-p udp"),
    "the same match twice": (
        "-p tcp -m multiport --dports 1,2 -m multiport --sports 3",
        "-p tcp -m multiport --dports 1,2 -m multiport --sports 3"),
    "an alias": ("-m state --state NEW", "-m state --state NEW"),
    "quoting": ("-m comment --comment 'it\"s \\ mine'", '-m comment --comment "it\\"s \\\\ mine"'),
    "counters": ("-c 5 700 -j ACCEPT", "-j ACCEPT"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "printed"), PRINTED.values(), ids=PRINTED)
def test_printing(text: str, printed: str) -> None:
    """str(rule) is what iptables-save prints behind the chain's name, and parses into the same rule."""
    rule = Rule.parse(text)
    assert str(rule) == printed
    assert Rule.parse(printed) == rule


REFUSED = {
    "an unknown option": ("--bogus 1", 'unknown option "--bogus"'),
    "an unknown match": ("-m bogus", "Couldn't load match `bogus'"),
    "a match that is a path": ("-m ../../x", "Couldn't load match `../../x'"),
    "a stray word": ("DROP", "Bad argument `DROP'"),
    "an option twice": ("-s 1.2.3.4 -s 1.2.3.5", "multiple -s flags not allowed"),
    "the other family": ("-6 -j DROP", "this rule is for the other family, not for IPv4"),
    "several addresses": ("-s 192.0.2.1,192.0.2.2", "give one rule for each"),
    "two targets": ("-j DROP -j ACCEPT", "multiple -j flags not allowed"),
    "an interface too long": ("-i abcdefghijklmnop", "must be shorter than IFNAMSIZ"),
    "a mandatory option left out": ("-m connlimit", "connlimit"),
    "! at the end": ("-p tcp !", "nothing appropriate following !"),
    "! twice": ("! ! -p tcp", "multiple consecutive ! not allowed"),
    "! where it cannot be": ("! -j DROP", "unexpected ! flag before -j"),
    "going to a verdict": ("-g DROP -m comment", "goto 'DROP' is not a chain"),
    "a name that could be a command": ("-p tcp --d 22", 'unknown option "--d"'),
    "a command": ("--numeric", "belongs to a command of iptables"),
    "never a protocol": ("! -p all", "rule would never match protocol"),
    "a name too long": ("-j " + "x" * 40, "Invalid target name"),
    "counters that are none": ("-c 1 x", "byte counter not numeric"),
    "NUL": ("-j DR\0OP", "NUL"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_refusing(text: str, words: str) -> None:
    """What is no rule raises InvalidRuleError with the extension's own words and the text."""
    with pytest.raises(InvalidRuleError) as caught:
        Rule.parse(text)
    assert words in caught.value.reason
    assert caught.value.rule is not None


def test_rules_that_do_the_same_are_equal() -> None:
    """Also where their bytes differ in what IPv4 does not use; where they do not, the rules are others."""
    short, whole = Rule.parse("-m connlimit --connlimit-above 10"), Rule.parse("-m connlimit --connlimit-upto 10")
    said = Rule.parse(str(short))
    assert short.entry != said.entry
    assert (short == said, hash(short) == hash(said), len({short, said, whole})) == (True, True, 2)
    assert whole != short
    assert Rule.parse("-j DROP", Family.IPV6) != Rule.parse("-j DROP")


def test_what_nobody_can_read_is_equal_by_its_bytes_alone() -> None:
    """A revision without text prints as its size; two of them are not the same rule for that."""
    known = Rule.parse("-m mark --mark 1")
    at = known.entry.index(b"mark") + 29  # the revision, behind the name
    one, other = (Rule(Family.IPV4, known.entry[:at] + b"\xc8" + last + known.entry[at + 2 :]) for last in (b"a", b"b"))
    assert (str(one), one == other) == (str(other), False)
    assert "unsupported revision 200" in str(one)


def test_statistic_begins_where_packet_says() -> None:
    """The kernel begins at the count that iptables sends (`--packet`), so it has to be in the rule's bytes."""
    (match,) = decode(Rule.parse("-m statistic --mode nth --every 5 --packet 2")).matches
    mode, _, last, packet, count = struct.unpack_from("=HHIII", match.data)  # struct xt_statistic_info
    assert (mode, last, packet, count) == (1, 4, 2, 2)


def test_both_families_in_one_process() -> None:
    """Targets that libxtables keeps apart by family can be had in both, in either order, again and again."""
    for target in (
        "DSCP --set-dscp 0x2e",
        "TEE --gateway {}",
        "LOG",
        "REJECT",
        "HMARK --hmark-tuple src --hmark-mod 2 --hmark-rnd 4",
    ):
        for family in (Family.IPV4, Family.IPV6, Family.IPV4, Family.IPV6):
            gateway = "192.0.2.1" if family is Family.IPV4 else "fd00::1"
            assert str(Rule.parse(f"-j {target}".format(gateway), family)).startswith(f"-j {target.split()[0]}")


def test_no_bad_rule_ends_the_process() -> None:
    """A process that is fed ten thousand bad rules lives on, says nothing, and then parses a good one."""
    code = (
        "from nfkeep import InvalidRuleError, Rule\n"
        "bad = ['-m bogus', '--x', '-p tcp --dport', '-m connlimit', '-m rateest', '-j LOG --log-level x', '-s x/y']\n"
        "for i in range(10000):\n"
        "    try:\n"
        "        Rule.parse(bad[i % len(bad)])\n"
        "    except InvalidRuleError:\n"
        "        pass\n"
        "print(Rule.parse('-j DROP'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "-j DROP\n", "")


def test_libnftables_in_the_same_process_changes_nothing() -> None:
    """libnftables sets libxtables' error handler to one that exits; bad rules stay errors all the same."""
    code = (
        "import nftables\n"
        "from nfkeep import InvalidRuleError, Rule\n"
        "for act in (lambda: None, nftables.Nftables, lambda: nftables.Nftables().cmd('list ruleset')):\n"
        "    kept = act()\n"
        "    try:\n"
        "        Rule.parse('-m bogus')\n"
        "    except InvalidRuleError as error:\n"
        "        print(error.reason)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("Couldn't load match `bogus'")) == (0, 3)


WORDS = st.lists(
    st.one_of(
        st.sampled_from(
            ["-p", "tcp", "-m", "multiport", "--dports", "!", "-j", "DROP", "connlimit", "-s", "-g", "--set"]
        ),
        st.text(min_size=1, max_size=12),
    ),
    max_size=8,
)


@given(WORDS)
def test_any_words_are_a_rule_or_a_clear_error(words: list[str]) -> None:
    """Whatever the text, it parses or raises InvalidRuleError; what parses prints and parses again into the same."""
    text = " ".join(words)
    try:
        rule = Rule.parse(text)
    except InvalidRuleError:
        return
    assert Rule.parse(str(rule)) == rule


@given(st.binary(max_size=300))
def test_any_bytes_print_or_are_refused(entry: bytes) -> None:
    """Bytes that are no rule raise InvalidRuleError instead of being read past their end."""
    with pytest.raises(InvalidRuleError, match="are not a rule"):
        str(Rule(Family.IPV4, entry))


SPOILT = st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=2)), min_size=1, max_size=3)


@given(st.sampled_from(list(Family)), SPOILT, st.integers(0, 16))
def test_a_rule_with_other_bytes_is_a_rule_or_refused(
    family: Family, changes: list[tuple[int, bytes]], cut: int
) -> None:
    """Lengths that lead out of it, or nowhere, raise InvalidRuleError, taken apart as well as printed.

    With a match that prints any data: other extensions rely on what the kernel lets in.
    """
    entry = bytearray(Rule.parse("-m mark --mark 1 -m mark --mark 2 -j DROP", family).entry)
    for at, octets in changes:
        at %= len(entry)
        entry[at : at + len(octets)] = octets
    rule = Rule(family, bytes(entry[: len(entry) - cut]))
    for act in (str, decode):
        with contextlib.suppress(InvalidRuleError):
            act(rule)


@pytest.mark.parametrize("family", list(Family), ids=str)
def test_a_target_past_the_end_is_no_rule(family: Family) -> None:
    """Wherever target_offset points to, nothing behind the bytes is looked at."""
    entry = Rule.parse("-j DROP", family).entry
    at = 88 if family is Family.IPV4 else 140
    for offset in (0, 104, len(entry) - 8, len(entry), 60000, 65535):
        rule = Rule(family, entry[:at] + offset.to_bytes(2, "little") + entry[at + 2 :])
        for act in (str, decode):
            with pytest.raises(InvalidRuleError, match="are not a rule"):
                act(rule)


CUT_SHORT = [
    "-m connlimit --connlimit-above 3",
    "-m conntrack --ctstate NEW",
    "-m limit --limit 3/min",
    "-m state --state NEW",
    "-p tcp -m multiport --dports 1,2",
    "-m quota --quota 5",
    "-m recent --name x --set",
    "-m statistic --mode nth --every 3 --packet 1",
    "-p tcp -m tcp --dport 22",
    "-p udp -m udp --dport 53",
]


@pytest.mark.parametrize("match", CUT_SHORT)
def test_an_extension_cut_short_is_refused(match: str) -> None:
    """An extension whose data others read by its name has what they read."""
    rule = Rule.parse(f"{match} -j DROP")
    (whole,) = decode(rule).matches
    entry = rule.entry[:112] + struct.pack("=H", 32) + rule.entry[114:144] + rule.entry[-40:]
    entry = entry[:88] + struct.pack("=HH", len(entry) - 40, len(entry)) + entry[92:]
    with pytest.raises(InvalidRuleError, match=f"0 bytes are no data of {whole.name}"):
        decode(Rule(Family.IPV4, entry))


@needs_corpus
def test_every_valid_line_of_the_corpus_prints_as_expected() -> None:
    """The rules of iptables' own extension tests, as they say that they print; IPv6 where the extension is for it."""
    lines = [line for line in extension_lines() if line.valid]
    assert len(lines) > 400
    assert [fault for line in lines if (fault := wrong(line))] == []


def wrong(line: Line) -> str | None:
    try:
        printed = str(Rule.parse(line.rule, line.families[0]))
    except InvalidRuleError as error:
        return f"{line}: {error}"
    return None if printed == line.printed else f"{line}: {printed}"
