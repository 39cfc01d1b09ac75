"""Two hosts side by side, rules of iptables on one and an nft script on the other, and the same packets through both.

The hosts are made once and go from one pair of rulesets to the next; only a source with a nat table has a pair of its
own, because a namespace that has seen one tracks connections ever after.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.source import read_source
from nfkeep.migrate.verify.derive import packets_for
from nfkeep.migrate.verify.host import Host
from nfkeep.migrate.verify.observed import table
from nfkeep.migrate.verify.outcome import Outcome, compared
from nfkeep.migrate.verify.rulesets import Refused, load_legacy, load_nft, saved

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from nfkeep.migrate.verify.packet import Packet
    from nfkeep.model import Family


@attrs.frozen(slots=True)
class Difference:
    """A packet, its number in the sequence, and what either host did. `before`: the sequence as far as this packet."""

    number: int
    packet: Packet
    legacy: Outcome
    nft: Outcome
    before: tuple[Packet, ...] = attrs.field(repr=False)

    def __str__(self) -> str:
        return f"{self.packet}\n  iptables: {self.legacy}\n  nft:      {self.nft}"


@attrs.frozen(slots=True)
class Comparison:
    """What came of one pair of rulesets: `sent` packets, the differences in their order."""

    sent: int
    differences: tuple[Difference, ...]


@attrs.define(slots=True)
class _Pair:
    legacy: Host
    nft: Host
    tables: set[str] = attrs.field(factory=set)
    observer: str = ""

    def close(self) -> None:
        self.legacy.close()
        self.nft.close()


class Harness:
    """`with Harness(family) as harness:` keeps the hosts; `compare` any number of pairs of rulesets in between."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._pairs: dict[bool, _Pair] = {}

    def __enter__(self) -> Harness:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the hosts go."""
        while self._pairs:
            self._pairs.popitem()[1].close()

    def compare(
        self,
        save_text: str,
        script: str,
        packets: int | Sequence[Packet] = 50,
        *,
        seed: int = 0,
        first: bool = False,
        odd: bool = False,
    ) -> Comparison:
        """Load both, send the same packets through both, and tell where they differ.

        `packets`: how many to derive from the rules, or the packets themselves; `odd`: derive also those that no nft
        rule treats as iptables does (see derive.py); `first`: stop at the first difference.
        A difference counts if it comes again with the rules loaded afresh: limits run by the clock. Raises Refused
        where a host does not take its rules, InvalidRuleError for what is no iptables-save text.
        """
        source = read_source(save_text, self.family)
        sequence = packets_for(source, packets, seed, odd=odd) if isinstance(packets, int) else list(packets)
        pair = self._pair(any(each.name == "nat" for each in source.tables), sequence)
        found = self._run(pair, save_text, script, sequence, first)
        if found and _BY_THE_CLOCK.search(save_text):
            again = {each.number for each in self._run(pair, save_text, script, sequence, first)}
            found = [each for each in found if each.number in again]
        return Comparison(len(sequence), tuple(found))

    def counted(self, save_text: str, packet: Packet) -> tuple[str, ...]:
        """The rules of the source, loaded alone, that count the packet: as iptables-save prints them."""
        source = read_source(save_text, self.family)
        pair = self._pair(any(each.name == "nat" for each in source.tables), [packet])
        self._load(pair, save_text, "")
        before = saved(pair.legacy.namespace, self.family)
        pair.legacy.send(packet)
        after = saved(pair.legacy.namespace, self.family)
        return tuple(
            line.partition(" ")[2] for line, old in zip(after, before, strict=True) if line != old and line[:1] == "["
        )

    def _pair(self, nat: bool, sequence: Sequence[Packet]) -> _Pair:
        pair = self._pairs.get(nat)
        if pair is None:
            pair = self._pairs[nat] = _Pair(Host(self.family), Host(self.family))
        names = {name for packet in sequence for name in (packet.enters, packet.leaves) if name}
        for host in (pair.legacy, pair.nft):
            host.add_interfaces(sorted(names))
        return pair

    def _run(
        self, pair: _Pair, save_text: str, script: str, sequence: Sequence[Packet], first: bool
    ) -> list[Difference]:
        self._load(pair, save_text, script)
        groups = {int(number) for number in re.findall(r"--nflog-group (\d+)", save_text)}
        for host in (pair.legacy, pair.nft):
            host.log.listen(groups)
            host.begin()
        found = self._differences(pair, sequence)
        return list(itertools.islice(found, 1) if first else found)

    def _load(self, pair: _Pair, save_text: str, script: str) -> None:
        observer = table(self.family, connmark=_CONNMARK.search(save_text) is not None, conditions=_told(save_text))
        loading = [
            load_legacy(pair.legacy.namespace, self.family, save_text, pair.tables),
            load_nft(pair.nft.namespace, script, observer),
        ]
        if pair.observer != observer:
            loading.append(load_nft(pair.legacy.namespace, "", observer))
        refusals: list[Refused] = []
        for each in loading:
            try:
                each.wait()
            except Refused as refused:
                refusals.append(refused)
        if refusals:
            raise refusals[0]
        pair.observer = observer

    def _differences(self, pair: _Pair, sequence: Sequence[Packet]) -> Iterator[Difference]:
        for number, packet in enumerate(sequence):
            legacy = compared(pair.legacy, pair.legacy.send(packet))
            nft = compared(pair.nft, pair.nft.send(packet))
            if legacy != nft:
                yield Difference(number, packet, legacy, nft, tuple(sequence[: number + 1]))


_BY_THE_CLOCK = re.compile(r"-m (?:limit|hashlimit|recent|time|rateest|connbytes)\b|--log")
_CONNMARK = re.compile(r"\b(?:CONNMARK|connmark)\b")
_CLASS = re.compile(r"--set-class (\S+)")


def _told(save_text: str) -> list[str]:
    """What else to observe: the classes that the rules give."""
    return [f"meta priority {each}" for each in sorted(set(_CLASS.findall(save_text)))]
