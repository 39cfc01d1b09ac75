"""What the arguments of iptables ask for, as far as keeping state has to know.

That is the table, what may happen to it, and for how long to wait for the lock.

Errs on the safe side: whatever is not plainly a listing counts as a change. iptables itself judges the arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import attrs

_CHANGES = frozenset("ADIRFZNXEP")
_REMOVES = frozenset("DRF")
_READS = frozenset("LSChV")
_WITH_VALUE = frozenset("ADIRCENPopsdjimMtcg")
_WITH_OPTIONAL_VALUE = frozenset("LSFZXhwW")
_LONG = {
    "append": "A", "delete": "D", "check": "C", "insert": "I", "replace": "R", "list": "L", "list-rules": "S",
    "flush": "F", "zero": "Z", "new-chain": "N", "delete-chain": "X", "rename-chain": "E", "policy": "P",
    "source": "s", "destination": "d", "src": "s", "dst": "d", "protocol": "p", "in-interface": "i", "jump": "j",
    "table": "t", "match": "m", "numeric": "n", "out-interface": "o", "verbose": "v", "wait": "w",
    "wait-interval": "W", "exact": "x", "fragments": "f", "version": "V", "help": "h", "line-numbers": "0",
    "modprobe": "M", "set-counters": "c", "goto": "g", "ipv4": "4", "ipv6": "6",
}  # fmt: skip
"""iptables/iptables.c, original_opts; each extension that a rule names adds options of its own."""

USUAL_WAIT_SECONDS = 60.0
"""Without `-w`, where iptables waits not at all or for ever, as its version has it."""


@attrs.frozen(slots=True)
class Arguments:
    """`only_reads`: nothing can change. `may_remove`: rules can go.

    `tables`: the last `-t`, filter without one; several where it depends on options of extensions which it is.
    `wait_seconds`: for how long to wait for the xtables lock, as `-w` has it; None is for ever.
    """

    tables: frozenset[str]
    only_reads: bool
    may_remove: bool
    wait_seconds: float | None = USUAL_WAIT_SECONDS


def read_arguments(arguments: Sequence[str]) -> Arguments:
    """Look through the arguments as getopt_long would, for commands, the table and the wait.

    It is not known which options of extensions take the next word for their value. So each way to read the words is
    followed, and what any of them finds counts.
    """
    letters: set[str] = set()
    end = len(arguments)
    # Tables and seconds to wait, each as it can be by the time that a word is read as an option.
    seen: list[set[tuple[str, float | None]]] = [set() for _ in range(end + 1)]
    seen[0].add(("filter", USUAL_WAIT_SECONDS))
    for at, word in enumerate(arguments):
        if not seen[at]:  # only ever the value of the option before it
            continue
        following = arguments[at + 1] if at + 1 < end else ""
        for options, length in _readings(word, following):
            letters.update(letter for letter, _ in options)
            said = dict(options)  # of several the last one
            seen[end if word == "--" else min(at + length, end)].update(
                (said.get("t", table), _wait(said["w"], following) if "w" in said else wait) for table, wait in seen[at]
            )
    waits = [wait for _, wait in seen[end]]
    return Arguments(
        frozenset(table for table, _ in seen[end]),
        only_reads=bool(letters & _READS) and not letters & _CHANGES,
        may_remove=bool(letters & _REMOVES),
        wait_seconds=max((wait for wait in waits if wait is not None), default=None) if None not in waits else None,
    )


def _wait(glued: str, following: str) -> float | None:
    """How many seconds a `-w` asks for; iptables looks for the number in the next word as well."""
    number = glued or ("" if following.startswith(("-", "!")) else following)
    if not number:
        return None
    seconds = re.match(r"-?\d+(?!x)", number)
    if seconds is None:  # iptables has words for that
        return USUAL_WAIT_SECONDS
    return float(seconds[0]) if not number.startswith("-") else None


_Reading = tuple[list[tuple[str, str]], int]
"""Options, each with its letter and its value, and how many words they take."""


def _readings(word: str, following: str) -> Iterator[_Reading]:
    """Each way to read a word that stands where an option can."""
    if word.startswith("--"):
        yield from _readings_of_long(word[2:], following)
        return
    found: list[tuple[str, str]] = []
    for at, letter in enumerate(word[1:] if word.startswith("-") else "", start=2):
        if letter in _WITH_VALUE and not word[at:]:
            yield [*found, (letter, following)], 2
            return
        found.append((letter, word[at:]))
        if letter in _WITH_VALUE or letter in _WITH_OPTIONAL_VALUE:
            break
    yield found, 1


def _readings_of_long(option: str, following: str) -> Iterator[_Reading]:
    name, glued, value = option.partition("=")
    # getopt_long takes any beginning of a name; with several that fit, all of them count.
    exact = [_LONG[name]] if name in _LONG else []
    for letter in exact or {letter for long, letter in _LONG.items() if name and long.startswith(name)}:
        takes_next = letter in _WITH_VALUE and not glued
        yield [(letter, following if takes_next else value)], 2 if takes_next else 1
    if not exact:  # it may be an extension's, which may have a value
        yield [], 1
        if not glued and name:
            yield [], 2
