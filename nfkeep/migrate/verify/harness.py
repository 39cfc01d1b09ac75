"""Two hosts side by side, rules of iptables on one and an nft script on the other, and the same packets through both.

The hosts are made once and go from one pair of rulesets to the next; only a source with a nat table has a pair of its
own, because a namespace that has seen one tracks connections ever after.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.source import read_source, rules_of
from nfkeep.migrate.verify.counting import Counted, of_legacy, of_nft, since, unlike, unmet
from nfkeep.migrate.verify.derive import packets_for, wandering
from nfkeep.migrate.verify.host import Host
from nfkeep.migrate.verify.observed import table
from nfkeep.migrate.verify.outcome import Chosen, Outcome, comparable, outcome, same_but_for_ports
from nfkeep.migrate.verify.rulesets import Refused, load_legacy, load_nft, saved, tables_of
from nfkeep.migrate.verify.ticks import is_quick
from nfkeep.migrate.verify.words import read_words
from nfkeep.xtables.jiffies import tick_seconds

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from types import TracebackType

    from nfkeep.migrate.source import Source
    from nfkeep.migrate.verify.counting import ByChain
    from nfkeep.migrate.verify.packet import Packet
    from nfkeep.model import Family


@attrs.frozen(slots=True)
class Difference:
    """A packet, its number in the sequence, and what either host did."""

    number: int
    packet: Packet
    legacy: Outcome
    nft: Outcome
    sequence: Sequence[Packet] = attrs.field(repr=False)

    def __str__(self) -> str:
        return "\n  ".join((str(self.packet), *self.told()))

    @property
    def before(self) -> Sequence[Packet]:
        """The sequence as far as this packet."""
        return self.sequence[: self.number + 1]

    def told(self) -> tuple[str, str]:
        """What either host did, in words; with the bytes where the words are the same."""
        legacy, nft = str(self.legacy), str(self.nft)
        if legacy == nft:
            pairs = zip(self.legacy.seen, self.nft.seen, strict=True)
            one, other = next(((a, b) for a, b in pairs if comparable(a) != comparable(b)), (None, None))
            return f"iptables: {legacy}: {one}", f"nft:      {nft}: {other}"
        return f"iptables: {legacy}", f"nft:      {nft}"


@attrs.frozen(slots=True)
class Comparison:
    """What came of one pair of rulesets: `sent` packets, the differences in their order.

    `counted`, where counters were asked for: rules that counted otherwise although nothing else was different;
    `unmet`: lines of the rules that no packet came to.
    `quick`: whether there are limits as in ticks.py; `counted` can then be their doing.
    """

    sent: int
    differences: tuple[Difference, ...]
    counted: tuple[Counted, ...] = ()
    unmet: tuple[int, ...] = ()
    quick: bool = False


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
        counters: bool = False,
    ) -> Comparison:
        """Load both, send the same packets through both, and tell where they differ.

        `packets`: how many to derive from the rules, or the packets themselves; `odd`: derive also those that no nft
        rule treats as iptables does (see derive.py); `first`: stop at the first difference; `counters`: compare what
        rules have counted, too, if the script's rules count.
        Where rules go by the clock or by chance, a difference counts if it comes again with the rules loaded afresh, a
        difference of counters if it is the very same; so two rules that go by chance are equal to this, whatever their
        chances. Where a limit is quick (ticks.py), a difference counts if a pause before the packet does not end it.
        Raises Refused where a host does not take its rules, InvalidRuleError for no iptables-save text.
        """
        source = read_source(save_text, self.family)
        sequence = packets_for(source, packets, seed, odd=odd) if isinstance(packets, int) else list(packets)
        pair = self._pair(any(each.name == "nat" for each in source.tables), sequence)
        self._load(pair, save_text, script)
        if isinstance(packets, int) and sum(1 for _ in rules_of(source)) > 1:
            sequence += self._seek(pair, source, sequence, packets, seed)
            self._load(pair, save_text, script)
        then = self._counters(pair) if counters else ({}, {})
        quick = any(is_quick(read_words(rule.words)) for _, _, rule in rules_of(source))
        first = first and not quick
        pauses: set[int] = set()

        def run() -> list[Difference]:
            return self._run(pair, save_text, sequence, first, pauses)

        found = run()
        times = max((times for pattern, times in _AGAIN if pattern.search(save_text)), default=0)
        for _ in range(times if found else 0):
            self._load(pair, save_text, script)
            again = {each.number for each in run()}
            found = [each for each in found if each.number in again]
        if quick and found:
            pauses.update(each.number for each in found)
            self._load(pair, save_text, script)
            again = {each.number for each in run()}
            found = [each for each in found if each.number in again]
        if not counters:
            return Comparison(len(sequence), tuple(found), quick=quick)
        legacy, nft = (since(*each) for each in zip(self._counters(pair), then, strict=True))
        others = [] if found else list(unlike(source, legacy, nft))
        for _ in range(times if others else 0):
            self._load(pair, save_text, script)
            run()
            counted = (since(*each) for each in zip(self._counters(pair), then, strict=True))
            again_unlike = list(unlike(source, *counted))
            others = [each for each in others if each in again_unlike]
        return Comparison(len(sequence), tuple(found), tuple(others), tuple(sorted(unmet(source, legacy))), quick)

    def _seek(self, pair: _Pair, source: Source, sequence: Sequence[Packet], count: int, seed: int) -> list[Packet]:
        """More packets, for the rules that the legacy host's counters show no packet at."""
        found: list[Packet] = []
        host = pair.legacy
        host.begin()
        then = of_legacy(host.namespace, self.family)
        host.send_all(sequence)
        for number in range(_ROUNDS):
            missing = unmet(source, since(of_legacy(host.namespace, self.family), then))
            more = wandering(source, missing, count // (2 * _ROUNDS), seed + number)
            self._add_interfaces(pair, more)
            host.send_all(more)
            found += more
        return found

    def _counters(self, pair: _Pair) -> tuple[ByChain, ByChain]:
        return of_legacy(pair.legacy.namespace, self.family), of_nft(pair.nft.namespace)

    def counted(self, save_text: str, packet: Packet) -> tuple[str, ...]:
        """The rules of the source, loaded alone, that count the packet: as iptables-save prints them."""
        source = read_source(save_text, self.family)
        pair = self._pair(any(each.name == "nat" for each in source.tables), [packet])
        self._load(pair, save_text, "")
        pair.legacy.begin()
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
        self._add_interfaces(pair, sequence)
        return pair

    def _add_interfaces(self, pair: _Pair, sequence: Sequence[Packet]) -> None:
        names = {name for packet in sequence for name in (packet.enters, packet.leaves, packet.back) if name}
        for host in (pair.legacy, pair.nft):
            host.add_interfaces(sorted(names))

    def _run(
        self, pair: _Pair, save_text: str, sequence: Sequence[Packet], first: bool, pauses: Collection[int]
    ) -> list[Difference]:
        groups = {int(number) for number in re.findall(r"--nflog-group (\d+)", save_text)}
        for host in (pair.legacy, pair.nft):
            host.log.listen(groups)
            host.begin()
        with _on_one_processor() if _PROCESSORS.search(save_text) else contextlib.nullcontext():
            found = self._differences(pair, sequence, _chosen_ports(save_text), pauses)
            return list(itertools.islice(found, 1) if first else found)

    def _load(self, pair: _Pair, save_text: str, script: str) -> None:
        if _KEPT_BY_NAME.search(save_text):
            load_legacy(pair.legacy.namespace, self.family, "", pair.tables).wait()
        leftover = set(pair.tables)
        pair.tables |= tables_of(save_text)  # also if one of the hosts refuses: the other has them then
        observer = table(self.family, connmark=_CONNMARK.search(save_text) is not None, conditions=_told(save_text))
        loading = [
            load_legacy(pair.legacy.namespace, self.family, save_text, leftover),
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

    def _differences(
        self, pair: _Pair, sequence: Sequence[Packet], chosen: Chosen | None, pauses: Collection[int]
    ) -> Iterator[Difference]:
        for number, packet in enumerate(sequence):
            if number in pauses:
                time.sleep(2 * tick_seconds())  # one tick at least lies within, and with it credit for a packet
            logged = pair.legacy.send(packet), pair.nft.send(packet)
            if logged[0] == logged[1]:  # mostly
                continue
            legacy, nft = outcome(pair.legacy, logged[0]), outcome(pair.nft, logged[1])
            if legacy != nft and not (chosen and same_but_for_ports(legacy, nft, chosen, packet.sport or 0)):
                yield Difference(number, packet, legacy, nft, sequence)


@contextlib.contextmanager
def _on_one_processor() -> Iterator[None]:
    """For rules that ask which one it is."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


_PROCESSORS = re.compile(r"-m cpu\b|cpu-fanout")
_ROUNDS = 3
# A list or table of such a name lives on as long as there is a rule with it, through any number of replacements.
_KEPT_BY_NAME = re.compile(r"-m (?:recent|hashlimit)\b")
_NAT = re.compile(r"-j (?:SNAT|DNAT|MASQUERADE|REDIRECT|NETMAP)\b")
_AGAIN = (
    (re.compile(r"-m (?:limit|hashlimit|recent|time|rateest|connbytes)\b"), 3),  # within a tick one more passes
    # nf_conncount.c looks once a tick, at the most, which of its connections are closed and count no more
    (re.compile(r"-m connlimit\b"), 3),
    (_NAT, 3),  # a port that is chosen for another reason can lie in the range of a rule: one in sixty
    (re.compile(r"--mode random\b"), 15),
)
"""How often a difference has to come again, with the rules loaded afresh, where such a rule is in the source."""
_CONNMARK = re.compile(r"\b(?:CONNMARK|connmark)\b")
_ZONE = re.compile(r"-j CT .*--zone(?:-orig|-reply)? (\d\w*)")
_HELPER = re.compile(r"-j CT .*--helper \"?([\w.-]+)")
_UNTRACKED = re.compile(r"-j (?:NOTRACK|CT --notrack)\b")
_CLASS = re.compile(r"--set-class (\S+)")


_PORTS = re.compile(r"--to-(?:ports \S*?|(?:source|destination) \S*:)(\d+)(?:-(\d+))?(?=\s|$)", re.MULTILINE)


def _chosen_ports(save_text: str) -> Chosen | None:
    """What NAT chooses ports from; None without NAT."""
    if _NAT.search(save_text) is None:
        return None
    ranges = tuple((int(low), int(high or low)) for low, high in _PORTS.findall(save_text))
    return Chosen(ranges, "--random" in save_text)


def _told(save_text: str) -> list[str]:
    """What else to observe: the classes that the rules give, the zones, the helpers, what is not tracked."""
    told = [f"meta priority {each}" for each in sorted(set(_CLASS.findall(save_text)))]
    told += [f"ct zone {int(each, 0)}" for each in sorted(set(_ZONE.findall(save_text)))]
    told += [f'ct helper "{each}"' for each in sorted(set(_HELPER.findall(save_text)))]
    return told + (["ct state untracked"] if _UNTRACKED.search(save_text) else [])
