"""What the arguments of iptables ask for, as far as keeping state has to know: the table, and what may happen to it.

Errs on the safe side: whatever is not plainly a listing counts as a change. iptables itself judges the arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

_CHANGES = frozenset("ADIRFZNXEP")
_REMOVES = frozenset("DRF")
_READS = frozenset("LSChV")
_WITH_VALUE = frozenset("ADIRCENPopsdjimMtcg")
_WITH_OPTIONAL_VALUE = frozenset("LSFZXhwW")
_LONG = {
    "append": "A", "delete": "D", "insert": "I", "replace": "R", "flush": "F", "zero": "Z", "new-chain": "N",
    "delete-chain": "X", "rename-chain": "E", "policy": "P", "list": "L", "list-rules": "S", "check": "C",
    "help": "h", "version": "V", "table": "t", "new": "N",
}  # fmt: skip


@attrs.frozen(slots=True)
class Arguments:
    """`only_reads`: nothing can change. `may_remove`: rules can go. `table`: the last `-t`, filter without one."""

    table: str
    only_reads: bool
    may_remove: bool


def read_arguments(arguments: Sequence[str]) -> Arguments:
    """Look through the arguments as getopt_long would, for commands and the table."""
    letters: set[str] = set()
    table = "filter"
    for i, argument in enumerate(arguments):
        following = arguments[i + 1] if i + 1 < len(arguments) else ""
        for letter, value in _options(argument):
            letters.add(letter)
            if letter == "t":
                table = value or following
    return Arguments(
        table,
        only_reads=bool(letters & _READS) and not letters & _CHANGES,
        may_remove=bool(letters & _REMOVES),
    )


def _options(argument: str) -> list[tuple[str, str]]:
    """Each option in one word, as (its letter, what is glued to it)."""
    if argument.startswith("--"):
        name, _, value = argument[2:].partition("=")
        # getopt_long takes any beginning of a name; with several that fit, all of them count.
        exact = [_LONG[name]] if name in _LONG else []
        fitting = exact or [letter for long, letter in _LONG.items() if name and long.startswith(name)]
        return [(letter, value) for letter in fitting]
    if not argument.startswith("-"):
        return []
    found = []
    for at, letter in enumerate(argument[1:], start=2):
        takes_rest = letter in _WITH_VALUE or letter in _WITH_OPTIONAL_VALUE
        found.append((letter, argument[at:] if takes_rest else ""))
        if takes_rest:
            break
    return found
