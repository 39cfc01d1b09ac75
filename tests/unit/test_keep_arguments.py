"""What iptables' arguments ask for: which table, and whether anything can change."""

from __future__ import annotations

import pytest

from nfkeep.keep.arguments import Arguments, read_arguments

CASES = {
    "append": ("-A INPUT -j DROP", Arguments("filter", False, False)),
    "delete": ("-D INPUT 1", Arguments("filter", False, True)),
    "flush, with the table behind": ("-F -t mangle", Arguments("mangle", False, True)),
    "table glued": ("-tmangle -L", Arguments("mangle", True, False)),
    "long": ("--table=raw --append INPUT", Arguments("raw", False, False)),
    "long, in two words": ("--table raw --list-rules", Arguments("raw", True, False)),
    "long and short for it": ("--tab raw --appe INPUT", Arguments("raw", False, False)),
    "listing": ("-nvL INPUT", Arguments("filter", True, False)),
    "listing with the chain glued": ("-LFORWARD", Arguments("filter", True, False)),
    "listing and zeroing": ("-L -Z", Arguments("filter", False, False)),
    "check": ("-C INPUT -j DROP", Arguments("filter", True, False)),
    "version": ("-V", Arguments("filter", True, False)),
    "help": ("--help", Arguments("filter", True, False)),
    "policy": ("-P INPUT DROP", Arguments("filter", False, False)),
    "replace": ("-R INPUT 1 -j DROP", Arguments("filter", False, True)),
    "nothing": ("", Arguments("filter", False, False)),
    "a chain's name that looks like nothing": ("-A F -j D", Arguments("filter", False, False)),
    "the last table counts": ("-t nat -t raw -S", Arguments("raw", True, False)),
}


@pytest.mark.parametrize(("words", "expected"), CASES.values(), ids=CASES)
def test_reading(words: str, expected: Arguments) -> None:
    """Options are found as getopt_long finds them: glued, clustered, shortened."""
    assert read_arguments(words.split()) == expected
