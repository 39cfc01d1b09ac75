"""What iptables' arguments ask for: which table, and whether anything can change."""

from __future__ import annotations

import pytest

from nfkeep.keep.arguments import Arguments, read_arguments


def reading(tables: str, only_reads: bool, may_remove: bool) -> Arguments:
    return Arguments(frozenset(tables.split()), only_reads, may_remove)


CASES = {
    "append": ("-A INPUT -j DROP", reading("filter", False, False)),
    "delete": ("-D INPUT 1", reading("filter", False, True)),
    "flush, with the table behind": ("-F -t mangle", reading("mangle", False, True)),
    "table glued": ("-tmangle -L", reading("mangle", True, False)),
    "long": ("--table=raw --append INPUT", reading("raw", False, False)),
    "long, in two words": ("--table raw --list-rules", reading("raw", True, False)),
    "long and short for it": ("--tab raw --appe INPUT", reading("raw filter", False, False)),
    "listing": ("-nvL INPUT", reading("filter", True, False)),
    "listing with the chain glued": ("-LFORWARD", reading("filter", True, False)),
    "listing and zeroing": ("-L -Z", reading("filter", False, False)),
    "check": ("-C INPUT -j DROP", reading("filter", True, False)),
    "version": ("-V", reading("filter", True, False)),
    "help": ("--help", reading("filter", True, False)),
    "policy": ("-P INPUT DROP", reading("filter", False, False)),
    "replace": ("-R INPUT 1 -j DROP", reading("filter", False, True)),
    "nothing": ("", reading("filter", False, False)),
    "a chain's name that looks like nothing": ("-A F -j D", reading("filter", False, False)),
    "the last table counts": ("-t nat -t raw -S", reading("raw", True, False)),
    "a value that looks like the table": ("-A INPUT -j -tnat -g --table=raw", reading("filter", False, False)),
    "a value that looks like a change": ("-L -j -A", reading("filter", True, False)),
    "a long option's value": ("--source -tnat -S --jump --append", reading("filter", True, False)),
    "an extension's value or the table": ("-A A --comment -tnat", reading("filter nat", False, False)),
    "an extension's value that is no table": ("-A A --comment -tmp", reading("filter mp", False, False)),
    "an extension's value or a change": ("-S --comment -D", reading("filter", False, True)),
    "a value, of whichever option": ("-A A --comment -j -tnat --x=-traw", reading("filter nat", False, False)),
    "a flag or a value, then the table": ("-A A --syn -t nat", reading("filter nat", False, False)),
    "the table behind all doubt": ("-A A --dport -tnat -j B -t raw", reading("raw", False, False)),
    "the beginning of an option, or an extension's": ("-A A --tab -tnat", reading("nat filter -tnat", False, False)),
    "behind the end of options": ("-S -- -t nat -F", reading("filter", True, False)),
    "optional values are glued": ("-W -t nat -L -x", reading("nat", True, False)),
}


@pytest.mark.parametrize(("words", "expected"), CASES.values(), ids=CASES)
def test_reading(words: str, expected: Arguments) -> None:
    """Options are found as getopt_long finds them: glued, clustered, shortened."""
    assert read_arguments(words.split()) == expected


WAITS = {
    "unsaid": ("-A INPUT", 60.0),
    "for ever": ("-w -A INPUT", None),
    "for ever, at the end": ("-F -w", None),
    "in the next word": ("-w 5 -F", 5.0),
    "glued": ("-w5 -F", 5.0),
    "in a cluster": ("-vw 5 -F", 5.0),
    "long": ("--wait 5 -F", 5.0),
    "long, glued": ("--wait=5 -F", 5.0),
    "long, for ever": ("--wait -F", None),
    "not at all": ("-w 0 -F", 0.0),
    "a fraction is cut off": ("-w 1.5 -F", 1.0),
    "less than nothing": ("--wait=-1 -F", None),
    "no number": ("-w soon -F", 60.0),
    "the last one counts": ("-w -F -w 3", 3.0),
    "followed by an inversion": ("-w ! -s 192.0.2.1 -F", None),
    "the interval is no wait": ("-W 500 -F", 60.0),
    "in doubt, the longest": ("-A A --comment -w3 -w2 --comment -w", None),
}


@pytest.mark.parametrize(("words", "expected"), WAITS.values(), ids=WAITS)
def test_waiting(words: str, expected: float | None) -> None:
    """For how long to wait for the lock is found as iptables finds it."""
    assert read_arguments(words.split()).wait_seconds == expected
