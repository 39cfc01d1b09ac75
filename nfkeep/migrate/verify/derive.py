"""Packets from rules: for each rule one that satisfies it, then that one with a single thing different, then mixtures.

A rule's packets come through every hook that leads to it. Sequences are the same for the same rules and seed.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.verify import wire
from nfkeep.migrate.verify.fields import Choices, Setting, choices_for
from nfkeep.migrate.verify.fields.addresses import ELSEWHERE
from nfkeep.migrate.verify.fields.ports import protocol_number
from nfkeep.migrate.verify.fields.targets import fields_for
from nfkeep.migrate.verify.packet import Packet
from nfkeep.migrate.verify.paths import paths
from nfkeep.migrate.verify.sequences import sequence
from nfkeep.migrate.verify.words import Words
from nfkeep.model import Family, Hook

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nfkeep.migrate.source import Source
    from nfkeep.migrate.verify.words import Word

_LEAST = 6
_CAN_BE_EMPTY = frozenset({wire.TCP, wire.UDP, wire.UDPLITE, wire.ICMP, wire.ICMPV6, wire.GRE})
_PRIORITY, _VLAN = 3 << 13, 5
"""Tags: the kernel takes a frame with a priority alone for one without (VLAN 0), that of a VLAN for somebody else's."""

_FIELDS = {each.name for each in attrs.fields(Packet)}
_WHERE: dict[Hook, tuple[dict[str, object], ...]] = {
    Hook.PREROUTING: ({"enters": "in0", "leaves": None}, {"enters": "in0", "leaves": "out0"}),
    Hook.INPUT: ({"enters": "in0", "leaves": None},),
    Hook.FORWARD: ({"enters": "in0", "leaves": "out0"},),
    Hook.OUTPUT: ({"enters": None, "leaves": "out0"},),
    Hook.POSTROUTING: ({"enters": "in0", "leaves": "out0"}, {"enters": None, "leaves": "out0"}),
}


def packets_for(source: Source, count: int, seed: int, *, odd: bool = False) -> list[Packet]:
    """About `count` packets, at least some for each rule, and some that no rule asks for.

    `odd` ones, too: TCP and the like behind an authentication header, where ip6tables looks and nft does not
    (net/netfilter/nf_tables_core.c: IP6_FH_F_AUTH), and ports cut short, which iptables drops by itself (xt_tcpudp.c).
    """
    chance = random.Random(seed)
    maker = _Maker(source.family)
    rules = [(conditions, hook, own) for _, own, ways in paths(source) for hook, conditions in ways]
    rules = rules or [((), hook, Words((), "", ())) for hook in (Hook.INPUT, Hook.FORWARD, Hook.OUTPUT)]
    crossed = count // 5 if len(rules) > 1 else 0
    share = max(_LEAST, (count - crossed) // len(rules))
    found: list[Packet] = []
    several: list[Mapping[str, object]] = []
    for conditions, hook, own in rules:
        before = len(found)
        for fields in _variants(Setting(source.family, hook, _asked(conditions), conditions), own, chance, odd):
            made = maker.make(fields)
            found += made
            several.append(fields)
            if len(made) > share:  # as many of a kind as a limit asks for do not count
                before += len(made) - 1
            if len(found) - before >= share:
                break
    for _ in range(crossed):
        one, other = chance.sample(several, 2)
        found += maker.make({**one, **dict(chance.sample(sorted(other.items()), len(other) // 2)), "repeat": 1})
    return found


def wandering(source: Source, lines: set[int], count: int, seed: int) -> list[Packet]:
    """About `count` packets that get to the rules of these lines, each by chance past all that stands before them.

    What their conditions leave open has values that occur in the conditions of other rules, or their opposites.
    """
    chance = random.Random(seed)
    maker = _Maker(source.family)
    everywhere = list(paths(source))
    pool: list[Mapping[str, object]] = [{}]
    wanted: list[tuple[tuple[Word, ...], Hook]] = []
    for rule, _, ways in everywhere:
        for hook, conditions in ways[:1]:
            for each in conditions:
                choices = choices_for(each, Setting(source.family, hook, None, conditions))
                pool += [*choices.holds[:2], *choices.fails[:2]]
        if rule.line in lines:
            wanted += [(conditions, hook) for hook, conditions in ways]
    pool += _always(source.family, None, False)
    found: list[Packet] = []
    while wanted and len(found) < count:
        conditions, hook = chance.choice(wanted)
        fields: dict[str, object] = dict(chance.choice(_WHERE[hook]))
        for other in chance.choices(pool, k=chance.choice((0, 1, 2, 4, 8))):
            fields.update(other)
        fields.update({name: value for name, value in _WHERE[hook][0].items() if value is None})
        setting = Setting(source.family, hook, _asked(conditions), conditions)
        for each in conditions:
            holds = choices_for(each, setting).holds
            fields.update(chance.choice(holds) if holds else {})
        found += maker.make({**fields, "repeat": 1})
    return found


def _variants(setting: Setting, rule: Words, chance: random.Random, odd: bool) -> Iterator[dict[str, object]]:
    """Fields of packets, the most telling ones first, without end."""
    family, protocol = setting.family, setting.protocol
    found = (choices_for(each, setting) for each in setting.conditions)
    choices = [each for each in found if each.holds or each.fails]
    places = _WHERE[setting.hook]
    base: dict[str, object] = dict(places[0])
    for each in choices:
        base.update(each.holds[0] if each.holds else {})
    yield base
    told: set[object] = set()

    def fresh(fields: dict[str, object]) -> bool:
        key = tuple(sorted((name, repr(value)) for name, value in fields.items()))
        return key not in told and not told.add(key)  # type: ignore[func-returns-value]

    fresh(base)
    rows = [[*_alternating(each)] for each in choices]
    if setting.hook in (Hook.OUTPUT, Hook.POSTROUTING):
        rows.append(_answered(family))
    rows += [list(fields_for(rule, family)), _always(family, protocol, odd), list(places[1:])]
    for column in itertools.zip_longest(*rows):
        for change in column:
            if change is not None and fresh(changed := {**base, **change}):
                yield changed
    for _ in range(10_000):
        fields = dict(base)
        for row in chance.sample(rows, min(len(rows), chance.choice((1, 2, 2, 3)))):
            if row:
                fields.update(chance.choice(row))
        yield fields


def _alternating(choices: Choices) -> Iterator[Mapping[str, object]]:
    for fails, holds in itertools.zip_longest(choices.fails, choices.holds[1:]):
        yield from (each for each in (fails, holds) if each is not None)


def _asked(conditions: Sequence[Word]) -> int | None:
    """The protocol that -p names, None for all and for what has no number."""
    for each in conditions:
        if each.name == "-p" and not each.negated:
            try:
                return protocol_number(each.value) or None
            except (OSError, ValueError):
                return None
    return None


def _always(family: Family, protocol: int | None, odd: bool) -> list[Mapping[str, object]]:
    """What is tried with every rule: fragments, tagged frames, headers in front, other protocols, states."""
    source, destination = ELSEWHERE[family]
    found: list[Mapping[str, object]] = [{"fragment": 2}, {"fragment": 0, "more": True}, {"tag": _PRIORITY}]
    if family is Family.IPV6:
        padding = wire.options_header()
        found.append({"extensions": ((wire.HOP_BY_HOP, padding), (wire.DESTINATION, padding))})
        found.append({"atomic": True})
    else:
        found.append({"ip_options": b"\x94\4\0\0"})
    icmp = {"protocol": wire.ICMP} if family is Family.IPV4 else {"protocol": wire.ICMPV6, "icmp_type": 128}
    kinds: list[Mapping[str, object]] = [{"protocol": wire.UDP}, {"protocol": wire.TCP}, icmp, {"protocol": wire.SCTP}]
    found += [kind for kind in kinds if kind["protocol"] != protocol]
    found += [{"state": "established"}, {"state": "reply"}, {"state": "related"}, {"flags": wire.ACK}]
    found += [{"source": source, "destination": destination}, {"ttl": 1}, {"tos": 0xB9}, {"state": "invalid"}]
    found += [{"flags": wire.RST, "protocol": wire.TCP}, {"protocol": 99}]
    if protocol in _CAN_BE_EMPTY:
        found.append({"payload": b""})
    found.append({"tag": _VLAN})
    if odd:
        found.insert(0, {"cut": 2})
        if family is Family.IPV6:
            found.insert(0, {"extensions": ((wire.AH, wire.authentication_header(1, family)),)})
    return found


def _answered(family: Family) -> list[Mapping[str, object]]:
    """What the host answers by itself: those answers come from nobody's socket."""
    echo = wire.ICMP if family is Family.IPV4 else wire.ICMPV6
    received = {"enters": "in0", "leaves": None}
    return [{**received, "protocol": echo}, {**received, "protocol": wire.UDP}]


class _Maker:
    """Makes packets of fields; ports and identifiers that nobody asks for are new ones each time."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._port = 20000
        self._addresses = ELSEWHERE[family]

    def make(self, fields: Mapping[str, object]) -> tuple[Packet, ...]:
        """The packet, or the sequence that brings it into its state; as often as `repeat` says."""
        repeat = fields.get("repeat", 1)
        assert isinstance(repeat, int)
        return tuple(packet for _ in range(repeat) for packet in self._once(fields))

    def _once(self, fields: Mapping[str, object]) -> tuple[Packet, ...]:
        given = {name: value for name, value in fields.items() if name in _FIELDS}
        self._port = self._port + 1 if self._port < 60000 else 20000
        for name, value in (("sport", self._port), ("dport", 7777), ("identifier", self._port)):
            given.setdefault(name, value)
        given.setdefault("source", self._addresses[0])
        given.setdefault("destination", self._addresses[1])
        if self._family is Family.IPV6 and given.get("protocol") == wire.ICMPV6:
            given.setdefault("icmp_type", 128)
        packet = Packet(family=self._family, **given)  # type: ignore[arg-type]
        size = fields.get("size")
        if isinstance(size, int):
            room = max(0, len(packet.payload) + size - len(packet.bytes))
            packet = attrs.evolve(packet, payload=(packet.payload * (room // 24 + 1))[:room])
        return sequence(packet, str(fields.get("state", "new")))
