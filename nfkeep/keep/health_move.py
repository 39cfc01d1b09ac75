"""The commands that move a connlimit rule from `filter` to `mangle`, which nobody edits. Pure.

In `mangle` one rule clears a bit of the packet's mark, and the next one, with the connlimit match, sets it; in
`filter` a rule tests the bit and does what the rule did. A packet that comes with the bit from elsewhere is harmless:
whatever the rule in `filter` asks for has passed both in `mangle`.
"""

from __future__ import annotations

import re
import shlex
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from nfkeep.conntrack.select import Selector
from nfkeep.keep.health_marks import free_bits
from nfkeep.keep.observe import Found, Observation
from nfkeep.keep.paths import Reach, can_meet, conditions
from nfkeep.model import Family, Hook, Rule
from nfkeep.xtables import connlimit
from nfkeep.xtables.entry import Entry, Extension
from nfkeep.xtables.opening import Place, places
from nfkeep.xtables.stateful import IN_RULE, NAMED, disturbed_by_packets, extensions
from nfkeep.xtables.text import parse, split

HOME = "mangle"
_LONGEST_CHAIN_NAME = 28  # XT_EXTENSION_MAXNAMELEN - 1
_HOOKS = frozenset(hook.name for hook in Hook)
_STATEFUL = IN_RULE | NAMED
_LEAVES = frozenset({"ACCEPT", "RETURN"})
_ENDS = frozenset({"ACCEPT", "RETURN", "DROP", "QUEUE"})
_FLAGS_AT = {Family.IPV4: (82, 0x02), Family.IPV6: (131, 0x04)}  # struct ipt_ip, ip6t_ip6; IPT_F_GOTO, IP6T_F_GOTO
_OFFSETS_AT = {Family.IPV4: 88, Family.IPV6: 140}
_HEAD_BYTES = {Family.IPV4: 112, Family.IPV6: 168}

Words = tuple[str, ...]


@attrs.frozen(slots=True)
class Move:
    """The commands, in order; `but` says in words what the rule then does otherwise than now, if anything."""

    commands: tuple[str, ...]
    but: str = ""


@attrs.frozen(slots=True)
class Obstacle:
    """Why no commands can be given."""

    reason: str


class Mover:
    """Moves rules of one family's `filter`, with marks and names of chains that are free, each for one purpose."""

    def __init__(self, tables: Mapping[str, Observation], policies: Mapping[tuple[str, str], str], marks: int) -> None:
        """`tables`: those of the family, with all their rules. `policies`: by table and chain. `marks`: bits in use."""
        self._filter = filter_table = tables["filter"]
        self._reach = Reach(filter_table)
        self._mangle = mangle = tables.get(HOME)
        self._nat = tables.get("nat")
        self._policies = policies
        self._names = set(mangle.chains if mangle is not None else ())
        self._bits = [(bit, list[Found]()) for bit in free_bits(marks)]
        self._command = "ip6tables" if filter_table.family is Family.IPV6 else "iptables"

    def move(self, found: Found) -> Move | Obstacle:
        """How one connlimit rule is moved."""
        if (reason := self._obstacle(found)) is not None:
            return Obstacle(reason)
        bit = self._bit(found)
        if bit is None:
            return Obstacle("all bits of the packet mark are in use")
        lines, doubts = self._in_mangle(found, bit)
        if isinstance(lines, Obstacle):
            return lines
        base = next(chain for chain in self._way(found.chain) if chain in _HOOKS)
        replaced = ("-t", HOME, "-P", base, self._policies.get((HOME, base), "ACCEPT"))
        in_filter = (*_words(found, _tested(found, bit)), *_target(found))
        return Move(
            (
                *map(self._line, lines),
                f"{self._line(replaced)}   # as it was: the replace has the live connections counted",
                self._line(("-I", found.chain, str(found.position), *in_filter)),
                self._line(("-D", found.chain, *(spelled(found) or (str(found.position + 1),)))),
            ),
            "; ".join(doubts),
        )

    def _obstacle(self, found: Found) -> str | None:
        before = [match.name for match in _before_limit(found.entry) if _keeps_state(match)]
        if before:
            return f"its {before[0]} match decides first what is counted, and cannot be in two tables"
        way = self._way(found.chain)
        if not any(chain in _HOOKS for chain in way):
            return f"no rule leads to the chain {found.chain}"
        for jump in self._jumps(way):
            if any(_keeps_state(each) for each in extensions(jump.entry)):
                return f"the jump at {self._filter.where(jump)} keeps state of its own"
        return None

    def _bit(self, found: Found) -> int | None:
        """A bit that no other rule has, but for those that no packet meets which meets this one."""
        mine = _packets(found)
        for bit, others in self._bits:
            if not any(can_meet(_packets(other), mine) for other in others):
                others.append(found)
                return bit
        return None

    def _way(self, chain: str) -> list[str]:
        """The chains through which packets come to a chain, itself first; base chains last."""
        found, at = [chain], 0
        while at < len(found):
            found += sorted({jump.chain for jump in self._callers(found[at])} - set(found))
            at += 1
        return sorted(found, key=lambda each: each in _HOOKS)

    def _callers(self, chain: str) -> list[Found]:
        return [each for each in self._filter.found if each.entry.jump == chain]

    def _jumps(self, way: Sequence[str]) -> list[Found]:
        return [jump for chain in way if chain not in _HOOKS for jump in self._callers(chain)]

    def _in_mangle(self, found: Found, bit: int) -> tuple[list[Words] | Obstacle, list[str]]:
        """What to do in mangle: chains first, then what is in them, and last what leads there."""
        way, doubts = self._way(found.chain), list[str]()
        names = {chain: self._name(chain) for chain in way if chain not in _HOOKS}
        made = [("-t", HOME, "-N", name) for name in names.values()]
        filled: list[Words] = []
        for chain in way:
            ends = [found] if chain == found.chain else []
            ends += [jump for jump in self._jumps(way) if jump.chain == chain]
            rules: list[Words] = []
            passed: list[Found] = []
            for end in sorted(ends, key=lambda each: each.position):
                passing, unclear = self._let_pass(end, found)
                rules += [(*_words(each, each.entry.matches), "-j", "RETURN") for each in passing if each not in passed]
                passed += passing
                doubts += [doubt for doubt in unclear if doubt not in doubts]
                rules += _marking(end, bit) if end is found else [self._jump(end, names)]
            if chain == "OUTPUT" and self._nat is not None and any(each.chain == chain for each in self._nat.found):
                doubts.append("in OUTPUT it sees destinations as they are before the rules of nat OUTPUT")
            if chain in names:
                filled += [("-t", HOME, "-A", names[chain], *rule) for rule in rules]
            elif passed:
                name = self._name(f"limit-{chain}-{found.position}")
                made.append(("-t", HOME, "-N", name))
                filled += [("-t", HOME, "-A", name, *rule) for rule in rules]
                rules = [("-j", name)]
            if chain in _HOOKS:
                placed = self._placed(chain, rules, bit)
                if isinstance(placed, Obstacle):
                    return placed, doubts
                filled += placed
        return [*made, *filled], doubts

    def _jump(self, jump: Found, names: dict[str, str]) -> Words:
        assert jump.entry.jump is not None
        return (*_words(jump, jump.entry.matches), "-g" if jump.entry.goto else "-j", names[jump.entry.jump])

    def _let_pass(self, end: Found, limit: Found) -> tuple[list[Found], list[str]]:
        """The rules before one that keep connections from it which it would count in mangle; and where that is unclear.

        Those that drop are none of them: a connection that does not come about is not counted for long.
        """
        passing: list[Found] = []
        unclear: list[str] = []
        for each in self._filter.found:
            if each.chain != end.chain or each.position >= end.position:
                continue
            if each.entry.verdict in _LEAVES and self._meet(each, end) and not _same_for_all(each.entry, limit):
                if any(_keeps_state(match) for match in each.entry.matches):
                    unclear.append(f"what {self._filter.where(each)} accepts is counted, too")
                else:
                    passing.append(each)
            elif each.entry.jump is not None and self._meet(each, end) and self._accepts(each, end):
                unclear.append(f"what the chain {each.entry.jump} accepts before it is counted, too")
        return passing, unclear

    def _meet(self, one: Found, other: Found) -> bool:
        if Place.OPENING not in places(one.entry):
            return False
        pairs = ((a, b) for a in self._reach.selectors(one) for b in self._reach.selectors(other) if a.hook is b.hook)
        return any(can_meet(a, b) for a, b in pairs)

    def _accepts(self, jump: Found, end: Found) -> bool:
        """Whether a chain, or one behind it, accepts opening packets that could come to a rule, or keeps them."""
        return jump.entry.goto or any(
            (each.entry.verdict == "ACCEPT" or (each.entry.jump is not None and self._accepts(each, end)))
            and self._meet(each, end)
            for each in self._filter.found
            if each.chain == jump.entry.jump
        )

    def _placed(self, chain: str, rules: list[Words], bit: int) -> list[Words] | Obstacle:
        """The rules at the end of a base chain of mangle; at its beginning if packets may not come to its end."""
        there = self._mangle.found if self._mangle is not None else ()
        if not any(self._ends(each) for each in there if each.chain == chain):
            return [("-t", HOME, "-A", chain, *rule) for rule in rules]
        if any(_writes_mark(each.entry, bit) for each in there):
            return Obstacle(f"rules of {HOME} {chain} end the way of packets, and others set the whole mark")
        return [("-t", HOME, "-I", chain, str(number), *rule) for number, rule in enumerate(rules, 1)]

    def _ends(self, found: Found) -> bool:
        """Whether a rule of mangle can keep a packet from the rules behind it."""
        assert self._mangle is not None
        inside = found.entry.jump
        if inside is None:
            return found.entry.verdict in _ENDS
        within = [each for each in self._mangle.found if each.chain == inside]
        return found.entry.goto or any(each.entry.verdict != "RETURN" and self._ends(each) for each in within)

    def _name(self, wanted: str) -> str:
        """A name for a chain of mangle that none has yet."""
        wanted, number = wanted[:_LONGEST_CHAIN_NAME], 1
        name = wanted
        while name in self._names:
            number += 1
            name = f"{wanted[: _LONGEST_CHAIN_NAME - 1 - len(str(number))]}-{number}"
        self._names.add(name)
        return name

    def _line(self, words: Iterable[str]) -> str:
        return f"nfkeep {self._command} {shlex.join(words)}"


def spelled(found: Found) -> Words | None:
    """The words that make a rule as it is, to the byte, so that `iptables -D` finds it; None if there are none.

    iptables makes the last 12 bytes of an IPv4 mask ones without `--connlimit-mask`, and zero with it, whatever it is;
    both are listed alike.
    """
    text = str(found.rule)
    for words in (text, re.sub(r" --connlimit-mask \d+", "", text)):
        if parse(words, found.rule.family).entry == found.rule.entry:  # iptables itself compares bytes
            return tuple(split(words))
    return None


def _packets(found: Found) -> Selector:
    """All packets that a rule is about, wherever they come from."""
    return Selector(Hook.INPUT, conditions(found.entry), destination_translated=True, replies=True)


def _before_limit(entry: Entry) -> Iterator[Extension]:
    for match in entry.matches:
        if match.name == connlimit.NAME:
            return
        yield match


def _keeps_state(extension: Extension) -> bool:
    return extension.name in _STATEFUL or disturbed_by_packets(extension)


def _same_for_all(entry: Entry, limit: Found) -> bool:
    """Whether each source has its own count, and a rule holds for all that is in it, or for nothing."""
    for match in limit.matches(connlimit.NAME):
        asked = connlimit.decode(match)
        if asked.by_destination or any(byte != 0xFF for byte in asked.mask[: len(entry.source)]):
            return False
    head, own = conditions(entry)[0], conditions(limit.entry)[0]
    if head.protocol and (head.protocol, head.protocol_inverted) != (own.protocol, own.protocol_inverted):
        return False
    others = head.destination or head.out_interface or entry.matches
    return not others and (not head.in_interface or head.in_interface.rstrip(b"\0") == b"lo")


def _marking(found: Found, bit: int) -> list[Words]:
    """What stands in mangle: the bit is cleared, and set where connlimit matches."""
    plain = [match for match in found.entry.matches if not _keeps_state(match)]
    limited = [match for match in found.entry.matches if match.name == connlimit.NAME or not _keeps_state(match)]
    return [
        (*_words(found, plain), "-j", "MARK", "--set-xmark", f"0x0/{bit:#x}"),
        (*_words(found, limited), "-j", "MARK", "--set-xmark", f"{bit:#x}/{bit:#x}"),
    ]


def _tested(found: Found, bit: int) -> list[Extension]:
    """The matches for filter: a test of the mark in the place of connlimit."""
    rule = parse(f"-m mark --mark {bit:#x}/{bit:#x}", found.rule.family)
    size = _HEAD_BYTES[rule.family]
    (target_at,) = struct.unpack_from("=H", rule.entry, _OFFSETS_AT[rule.family])
    _, name, revision = struct.unpack_from("=H29sB", rule.entry, size)
    mark = Extension(name.split(b"\0")[0].decode(), revision, rule.entry[size + 32 : target_at])
    tested: list[Extension] = []
    for match in found.entry.matches:
        if match.name != connlimit.NAME:
            tested.append(match)
        elif mark not in tested:
            tested.append(mark)
    return tested


def _words(found: Found, matches: Iterable[Extension]) -> Words:
    """The conditions of a rule with these matches instead of its own, and without its target."""
    return tuple(split(str(_without_target(found.rule, matches))))


def _target(found: Found) -> Words:
    """The words of a rule's target: those that are not of its conditions."""
    return tuple(split(str(found.rule))[len(_words(found, found.entry.matches)) :])


def _without_target(rule: Rule, matches: Iterable[Extension]) -> Rule:
    body = b"".join(
        struct.pack("=H29sB", 32 + len(match.data), match.name.encode(), match.revision) + match.data
        for match in matches
    )
    head = bytearray(rule.entry[: _HEAD_BYTES[rule.family]])
    flags_at, goto = _FLAGS_AT[rule.family]
    head[flags_at] &= ~goto & 0xFF
    target_at = len(head) + len(body)
    struct.pack_into("=HH", head, _OFFSETS_AT[rule.family], target_at, target_at + 40)
    return Rule(rule.family, bytes(head) + body + struct.pack("=H29sB8x", 40, b"", 0))


def _writes_mark(entry: Entry, bit: int) -> bool:
    """Whether a rule's target may change this bit of a packet's mark (struct xt_mark_tginfo2: mark, mask)."""
    if entry.target is None or entry.target.name not in ("MARK", "CONNMARK", "HMARK", "TPROXY"):
        return False
    if entry.target.name != "MARK" or entry.target.revision != 2:
        return True
    mark, mask = struct.unpack_from("=II", entry.target.data)
    return bool((mark | mask) & bit)
