"""A table seen through the eyes of state: its chains, and the few rules that keep state, disturb it or jump."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from nfkeep.keep import rundir
from nfkeep.keep.ledger import Ledger, Note
from nfkeep.model import Family, Rule
from nfkeep.xtables import quota
from nfkeep.xtables.entry import Entry, Extension, decode
from nfkeep.xtables.stateful import IN_RULE, NAMED, SCANNED, extensions, state_name
from nfkeep.xtables.tables import TableHandle

HOLD_CHAIN = "nfkeep-hold"
"""The chain of the inert rules that keep a state alive; see nfkeep.keep.hold."""

StateKey = tuple[str, str]
"""Kind and name of a named state, as ("recent", "sshd"); a rateest match and a RATEEST target share one kind."""


@attrs.frozen(slots=True)
class Found:
    """A rule of interest and where it stands; positions count from 1. `note`: what is known of its quotas."""

    chain: str
    position: int
    rule: Rule
    entry: Entry
    note: Note | None = None

    def matches(self, name: str) -> Iterator[Extension]:
        """The rule's matches of that name."""
        return (match for match in self.entry.matches if match.name == name)

    @property
    def figures(self) -> tuple[int, ...]:
        """What stands in each of its quotas, in bytes."""
        return tuple(quota.quota(match) for match in self.matches(quota.NAME))

    @property
    def wholes(self) -> tuple[int, ...]:
        """What that is the rest of, as far as is known."""
        return self.figures if self.note is None else self.note.wholes


@attrs.frozen(slots=True)
class Observation:
    """One table at one moment. `found` holds the rules of interest in table order."""

    table: str
    family: Family
    chains: tuple[str, ...]
    found: tuple[Found, ...]

    def stateful(self) -> Iterator[Found]:
        """Rules with state in them or with the name of a state."""
        kinds = IN_RULE | NAMED
        return (each for each in self.found if any(e.name in kinds for e in extensions(each.entry)))

    def named(self, *, holds: bool = True) -> dict[StateKey, Extension]:
        """The named states that the table refers to, each with one extension that does; without `holds`, in earnest.

        That is the first one that says how the state is made, as the kernel makes it for that.
        """
        named: dict[StateKey, Extension] = {}
        for each in self.found:
            if holds or each.chain != HOLD_CHAIN:
                for extension in extensions(each.entry):
                    key = state_key(extension)
                    if key is not None and (key not in named or named[key].name == "rateest"):
                        named[key] = extension
        return named

    def where(self, found: Found) -> str:
        """A rule's place in words."""
        return f"{self.family} {self.table} {found.chain} rule {found.position}"


def state_key(extension: Extension) -> StateKey | None:
    """What a named state is known by; None for an extension without one."""
    name = state_name(extension)
    return None if name is None else (extension.name.lower(), name)


def observe(handle: TableHandle) -> Observation:
    """Look at an open table as it stands in memory."""
    chains = tuple(handle.chains())
    found = tuple(Found(chains[chain], position, rule, decode(rule)) for chain, position, rule in handle.scan(SCANNED))
    seen = Observation(handle.name, handle.family, chains, found)
    if handle.has((quota.NAME,)) and rundir.exists() and (ledger := Ledger()):
        sure = not ledger.put_to_zero(seen)
        return attrs.evolve(seen, found=tuple(_noted(seen, each, ledger, sure) for each in found))
    return seen


def _noted(seen: Observation, found: Found, ledger: Ledger, sure: bool) -> Found:
    note = ledger.find(seen.family, seen.table, found.chain, found.rule) if found.figures else None
    return found if note is None else attrs.evolve(found, note=attrs.evolve(note, sure=sure))


def observe_table(family: Family, table: str) -> Observation:
    """A table as the kernel has it."""
    with TableHandle(table, family) as handle:
        return observe(handle)
