"""`-m time` in nft's words is true whenever the kernel's own match is, over a year of moments."""

from __future__ import annotations

import datetime
import random
import re

import attrs
import pytest

from nfkeep import Family
from nfkeep.migrate import parts
from nfkeep.migrate.context import Context, Objects
from nfkeep.migrate.matches import time
from nfkeep.migrate.rule import Extension, ParsedRule, parse_rule
from nfkeep.migrate.source import read_source, rules_of

DAY = 86400


@attrs.frozen
class Rule:
    """What xt_time.c is told: seconds of the day, days of the week (Monday is 1) and of the month."""

    text: str
    start: int = 0
    stop: int = DAY - 1
    weekdays: frozenset[int] = frozenset(range(1, 8))
    monthdays: frozenset[int] = frozenset(range(1, 32))
    contiguous: bool = False

    def holds(self, moment: int) -> bool:
        """What time_mt() says of a moment, in seconds since 1970."""
        clock, day = moment % DAY, moment // DAY
        if self.start < self.stop:
            if not self.start <= clock <= self.stop:
                return False
        elif self.stop < clock < self.start:
            return False
        elif self.contiguous and clock <= self.stop:
            day -= 1
        date = datetime.date(1970, 1, 1) + datetime.timedelta(days=day)
        return date.isoweekday() in self.weekdays and date.day in self.monthdays


HOUR = 3600
RULES = [
    Rule("--timestart 09:00:00 --timestop 17:30:00 --weekdays Mon,Fri", 9 * HOUR, 17 * HOUR + 1800, frozenset({1, 5})),
    Rule("--timestart 23:00:00 --timestop 01:00:00", 23 * HOUR, HOUR),
    Rule("--timestart 01:00:01 --timestop 01:00:00 --weekdays Sun", HOUR + 1, HOUR, frozenset({7})),
    Rule("--timestart 05:00:00 --timestop 05:00:00 --weekdays Sun", 5 * HOUR, 5 * HOUR, frozenset({7})),
    Rule(
        "--timestart 23:00:00 --timestop 01:00:00 --weekdays Sun,Tue --contiguous",
        23 * HOUR, HOUR, frozenset({2, 7}), contiguous=True,
    ),
    Rule(
        "--timestart 05:00:00 --timestop 05:00:00 --weekdays Sat --contiguous",
        5 * HOUR, 5 * HOUR, frozenset({6}), contiguous=True,
    ),
    Rule(
        "--timestart 12:00:00 --timestop 11:59:59 --monthdays 1,2,31 --contiguous",
        12 * HOUR, 12 * HOUR - 1, monthdays=frozenset({1, 2, 31}), contiguous=True,
    ),
    Rule("! --monthdays 1,2,3 --weekdays 1,7", weekdays=frozenset({1, 7}), monthdays=frozenset(range(4, 32))),
    Rule("--timestop 00:00:00", 0, 0),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.text)
def test_true_at_the_same_moments(rule: Rule) -> None:
    """At the turns of hours and days, and in between, both say the same."""
    context, match = parsed(rule.text)
    translated = time.translate(match, context)
    chance = random.Random(5)
    first = 1_798_761_600  # 2027-01-01
    turns = {rule.start, rule.stop, 0}
    moments = [first + day * DAY + turn + n for day in range(400) for turn in turns for n in (-1, 0, 1)]
    moments += [first + chance.randrange(400 * DAY) for _ in range(2000)]
    wrong = [
        moment for moment in moments if all(holds(part, moment, context) for part in translated) != rule.holds(moment)
    ]
    assert wrong == []


def parsed(text: str) -> tuple[Context, Extension]:
    """The context of a rule and its match."""
    source = read_source(f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m time {text}\nCOMMIT\n", Family.IPV4)
    ((_, _, written),) = rules_of(source)
    rule: ParsedRule = parse_rule(written, Family.IPV4, frozenset())
    return Context(Family.IPV4, "filter", "INPUT", "ACCEPT", rule, Objects()), rule.matches[0]


def holds(part: parts.Part, moment: int, context: Context) -> bool:
    """What nft says of a part: `meta hour` and `meta day` of UTC, `meta time` of the middle of the second."""
    if isinstance(part, parts.AnyOf):
        return any(all(holds(test, moment, context) for test in way) for way in part.ways)
    assert isinstance(part, parts.Test)
    if part.left == "meta time >=":
        return moment >= int(part.values[0])
    if part.left == "meta time <":
        return moment < int(part.values[0])
    if part.left == "meta time":
        (name,) = part.values
        (body,) = (each.body for each in context.objects.all() if f"@{each.name}" == name)
        ranges = re.findall(r"(\d+)-(\d+)", body[-1])
        return any(int(low) < moment + 0.5 < int(high) for low, high in ranges)
    if part.left == "meta day":
        return str((moment // DAY + 4) % 7) in part.values
    assert part.left == "meta hour"
    low, _, high = part.values[0].partition("-")
    return int(low) <= moment % DAY <= int(high)
