"""What stood in quota rules when they were written, and what they had counted by then: a file in the run directory.

Counters go on for ever while each replace writes a smaller figure; only both together tell what is left. Earlier
figures of a rule stay known while it is there, as a saved file may bring them back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import TYPE_CHECKING

import attrs

from nfkeep.keep import rundir
from nfkeep.model import Family, Rule
from nfkeep.xtables import quota

if TYPE_CHECKING:
    from nfkeep.keep.observe import Observation

_FILE = "quotas"
_MOST_NOTES = 32
"""Of one rule: each change of its table makes one, if the rule was used."""
_MOST_WITNESSES = 16
"""Of one table: of the rules that were looked at, those that have counted most."""


@attrs.frozen(slots=True)
class Note:
    """The `figures` in a rule, one for each quota, as they were written when it had `counted` so many bytes.

    They are what was left of `wholes` then. Not `sure`: counters in its table were put to zero since, so that this
    rule's may have grown past `counted` again.
    """

    figures: tuple[int, ...]
    counted: int
    wholes: tuple[int, ...]
    sure: bool = True


class Ledger:
    """The notes of all tables of this network namespace."""

    def __init__(self) -> None:
        self._known: dict[str, list[Note]] = {}
        self._witnesses: dict[str, dict[str, int]] = {}  # by table and rule, packets
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError, AttributeError):  # or something else in it
            notes, witnesses = json.loads(rundir.path(_FILE).read_text(encoding="ascii"))
            self._known = {key: [_unpacked(*each) for each in some] for key, some in notes.items()}
            self._witnesses = {table: {k: int(n) for k, n in some.items()} for table, some in witnesses.items()}
        self._read = self._packed()

    def __bool__(self) -> bool:
        return bool(self._known)

    def find(self, family: Family, table: str, chain: str, rule: Rule) -> Note | None:
        """The note that fits a rule and what it has counted; else one of when it was not yet put to zero; else None."""
        notes = self._known.get(_key(family, table, chain, rule), ())
        of_it = [note for note in notes if note.figures == quota.figures(rule)]
        fitting = [note for note in of_it if note.counted <= rule.counters.bytes]
        return max(fitting, key=lambda note: note.counted) if fitting else of_it[-1] if of_it else None

    def note(self, family: Family, table: str, chain: str, rule: Rule, wholes: tuple[int, ...]) -> None:
        """Remember a rule that is about to be written, with its figures and what it has counted."""
        notes = self._known.setdefault(_key(family, table, chain, rule), [])
        made = Note(quota.figures(rule), rule.counters.bytes, wholes)
        if made in notes:
            notes.remove(made)  # the last one is the youngest
        notes.append(made)
        del notes[:-_MOST_NOTES]

    def note_witnesses(self, now: Observation) -> None:
        """Remember what the rules of a table have counted, to see by them whether counters were put to zero."""
        most = sorted(_packets(now).items(), key=lambda item: item[1], reverse=True)[:_MOST_WITNESSES]
        self._witnesses[_prefix(now.family, now.table)] = dict(most)

    def put_to_zero(self, now: Observation) -> bool:
        """Whether a rule of the table has counted less than was noted."""
        packets = _packets(now)
        witnesses = self._witnesses.get(_prefix(now.family, now.table), {})
        return any(packets.get(key, noted) < noted for key, noted in witnesses.items())

    def forget_others(self, now: Observation) -> None:
        """Forget what it says of rules that this table has no longer, or that began anew."""
        prefix = _prefix(now.family, now.table)
        valid = {
            _key(now.family, now.table, found.chain, found.rule)
            for found in now.found
            if found.note is not None and found.rule.counters.bytes >= found.note.counted
        }
        self._known = {key: notes for key, notes in self._known.items() if key in valid or not key.startswith(prefix)}
        if not valid:
            self._witnesses.pop(prefix, None)

    def save(self) -> None:
        """Write it down, if anything is new."""
        packed = self._packed()
        if packed == self._read:
            return
        if self._known:
            rundir.write(_FILE, packed.encode("ascii"))
        else:
            rundir.remove(_FILE)

    def _packed(self) -> str:
        notes = {key: [[each.figures, each.counted, each.wholes] for each in some] for key, some in self._known.items()}
        return json.dumps([notes, self._witnesses if notes else {}])


def _packets(now: Observation) -> dict[str, int]:
    """By rule; of rules that are the same in a chain, all together."""
    packets: dict[str, int] = {}
    for found in now.found:
        key = _key(now.family, now.table, found.chain, found.rule)
        packets[key] = packets.get(key, 0) + found.rule.counters.packets
    return packets


def _unpacked(figures: list[int], counted: int, wholes: list[int]) -> Note:
    if len(figures) != len(wholes):
        raise ValueError(figures)
    return Note(tuple(map(int, figures)), int(counted), tuple(map(int, wholes)))


def _prefix(family: Family, table: str) -> str:
    return f"{family} {table} "


def _key(family: Family, table: str, chain: str, rule: Rule) -> str:
    """The same for a rule whatever figures are in it."""
    entry = quota.with_figures(rule, [0] * len(quota.figures(rule))).entry
    return f"{_prefix(family, table)}{chain} {hashlib.sha256(entry).hexdigest()}"
