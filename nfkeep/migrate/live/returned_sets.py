"""Sets of ipset, on the way back: elements that came, were renewed or were deleted while nft had the rules.

Also sets that were destroyed since: they are made again from what was kept of them.
"""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING

from nfkeep.errors import NfkeepError
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.migrate.ipset_keys import FIELDS, element_text, key_bytes, keyed
from nfkeep.migrate.ipset_nft import FOR_EVER
from nfkeep.migrate.ipsets import Element, read_ipsets
from nfkeep.migrate.live.commands import run_tool
from nfkeep.migrate.loss import Lost
from nfkeep.nft.elements import read_set

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping, Sequence

    from nfkeep.migrate.ipsets import IpSet
    from nfkeep.migrate.live.ties import TiedSet
    from nfkeep.nft.elements import ElementSocket, Found

_LONGEST = 2147483
"""IPSET_MAX_TIMEOUT: seconds that an element can last, if not for ever."""
_NEW = Element((), {})
_TIMEOUT = re.compile(r" timeout (\d+)")  # the first thing that ipset save tells of an element
_SAME_SECONDS = 2.0
"""ipset tells whole seconds."""


class ReturnedSets:
    """The sets of one family, and what was told them.

    `kept`: what they held when the move began, at `kept_at` by the clock. `continuing`: the tables of nft in which
    whatever is missing was deleted. `bring_back` may be called again: it brings what has come since.
    """

    def __init__(
        self, opened: ElementSocket, family: int, sets: Sequence[TiedSet], kept: Callable[[], Mapping[str, IpSet]],
        kept_at: float, continuing: Container[str],
    ) -> None:  # fmt: skip
        self._opened, self._family, self._sets = opened, family, sets
        self._kept, self._kept_at, self._continuing = kept, kept_at, continuing
        self._now: dict[str, dict[bytes, Element]] = {}
        self._added: dict[str, set[bytes]] = {}
        self._deleted: dict[str, set[bytes]] = {}
        self._left_out: dict[str, set[bytes]] = {}
        self._wrong: dict[str, str] = {}

    def bring_back(self, since_seconds: float | None, *, leave_out: Callable[[TiedSet], bool]) -> None:
        """Tell the sets what has come since so many seconds; None: since the kernel was started."""
        for tied in self._sets:
            if leave_out(tied):
                continue
            kept = self._kept().get(tied.name)
            if kept is None or not set(kept.fields) <= FIELDS:
                continue
            try:
                self._bring_back(tied, kept, since_seconds)
            except (Lost, NfkeepError, ValueError) as error:
                self._wrong[tied.name] = f"{error}"

    def outcomes(self) -> Iterator[Outcome]:
        """What came of it."""
        for name in dict.fromkeys(each.name for each in self._sets):
            added, deleted, left_out = (each.get(name) for each in (self._added, self._deleted, self._left_out))
            words = [f"{len(added)} elements came or were renewed" if added else ""]
            words.append(f"{len(deleted)} deleted" if deleted else "")
            words.append(f"{len(left_out)} left out that somebody has deleted from it" if left_out else "")
            if name in self._wrong:
                yield Outcome("ipset", f"set {name}", Fidelity.LOST, f"what came meanwhile: {self._wrong[name]}")
            elif any(words):
                yield Outcome("ipset", f"set {name}", Fidelity.RESTORED, ", ".join(filter(None, words)))

    def _bring_back(self, tied: TiedSet, kept: IpSet, since_seconds: float | None) -> None:
        found = read_set(self._opened, self._family, tied.table, tied.nft_name, key_bytes(kept))
        if found is None:  # somebody has deleted it, or its table
            return
        known = self._known(tied.name, kept)
        there = {each.key: each for each in found}
        # In another boot it is a set that was made again.
        deleted = {} if since_seconds is None else self._deleted_there(kept, known, there)
        came = [e for key, e in there.items() if _came(e, known.get(key, deleted.get(key)), kept, since_seconds)]
        gone = list(self._gone(kept, known, there)) if tied.table in self._continuing else []
        lines = [_add(kept, each, known.get(each.key)) for each in came]
        lines += [f"del {kept.name} {element_text(kept, key)}" for key in gone]
        if lines:
            run_tool(["ipset", "-exist", "restore"], "\n".join([*lines, ""]))
        known.update((each.key, _NEW) for each in came if each.key not in known)
        for key in gone:
            del known[key]
        self._added.setdefault(tied.name, set()).update(each.key for each in came)
        self._deleted.setdefault(tied.name, set()).update(gone)
        lasting = {key for key in deleted if not (left := there[key].expires_ms) or left / 1000 > _SAME_SECONDS}
        self._left_out.setdefault(tied.name, set()).update(lasting.difference(known))

    def _known(self, name: str, kept: IpSet) -> dict[bytes, Element]:
        """What ipset has in it now, or had when it was asked the first time, and what it was told."""
        if name not in self._now:
            now = read_ipsets(run_tool(["ipset", "save", name]))[name]
            if (now.kind, now.v6, now.has_timeouts) != (kept.kind, kept.v6, kept.has_timeouts):
                raise Lost("the set is another one by now")
            self._now[name] = keyed(now)
        return self._now[name]

    def _deleted_there(
        self, kept: IpSet, known: Container[bytes], there: Mapping[bytes, Found]
    ) -> dict[bytes, Element]:
        """What was in the set, is in it no longer, and is in nft's yet: somebody has deleted it from the set."""
        missing = [key for key in there if key not in known and key not in self._deleted.get(kept.name, ())]
        held = keyed(kept) if missing else {}
        return {key: held[key] for key in missing if key in held}

    def _gone(self, kept: IpSet, known: Mapping[bytes, Element], there: Mapping[bytes, Found]) -> Iterator[bytes]:
        """What was in the set, is in it still, and is not in nft's, though its time is not over."""
        missing = known.keys() - there.keys()
        passed, held = time.time() - self._kept_at, keyed(kept) if missing else {}
        for key in missing & held.keys():
            left = held[key].timeout - passed
            renewed = known[key].timeout > left + _SAME_SECONDS
            if not held[key].timeout or (left > _SAME_SECONDS and not renewed):
                yield key


def made_again(text: str, seconds: float) -> str:
    """The lines of `ipset save`, so many seconds old, for the sets that are not there now, but for what is over."""
    there = set(run_tool(["ipset", "list", "-n"]).split("\n"))
    kept = read_ipsets(text)
    wanted = {name for name in kept if name not in there}
    lines = []
    for line in text.splitlines():
        command, name = (*line.split(maxsplit=2), "", "")[:2]
        if name not in wanted:
            continue
        given = _TIMEOUT.search(line) if command == "add" and kept[name].has_timeouts else None
        if given is None or not int(given[1]):
            lines.append(line)
        elif (left := int(given[1]) - int(seconds)) > 0:
            lines.append(f"{line[: given.start(1)]}{left}{line[given.end(1) :]}")
    return "\n".join([*lines, ""]) if lines else ""


def _came(each: Found, known: Element | None, ipset: IpSet, since_seconds: float | None) -> bool:
    if known is None:
        return True
    given, left = each.timeout_ms / 1000 or float(ipset.options.get("timeout", 0)), each.expires_ms / 1000
    if not left or not given or not ipset.has_timeouts:
        return False
    if since_seconds is None:
        return abs(left - known.timeout) > _SAME_SECONDS and given < FOR_EVER
    return given - left < since_seconds


def _add(ipset: IpSet, each: Found, known: Element | None) -> str:
    """The command that adds or renews an element; what else ipset knows of it stays."""
    words = ["add", ipset.name, element_text(ipset, each.key)]
    if ipset.has_timeouts:
        ever = not each.expires_ms or each.timeout_ms >= FOR_EVER * 1000
        words += ["timeout", "0" if ever else f"{min(math.ceil(each.expires_ms / 1000), _LONGEST)}"]
    for name, value in (known.options if known else {}).items():
        if name != "timeout":
            words += [name, f'"{value}"' if name == "comment" else value] if value else [name]
    return " ".join(words)
