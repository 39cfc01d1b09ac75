"""Limits and lists: as many packets of a kind as a limit lets pass, and some more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.verify.fields.addresses import ELSEWHERE
from nfkeep.migrate.verify.fields.choices import Choices, generates

if TYPE_CHECKING:
    from nfkeep.migrate.verify.fields.choices import Setting
    from nfkeep.migrate.verify.words import Word

_MOST = 80
_MORE = 4


@generates("-m", match="limit")
def limit(word: Word, setting: Setting) -> Choices:
    """The burst and some more."""
    return _many(int(setting.option("limit", "--limit-burst", "5")), setting)


@generates("-m", match="hashlimit")
def hashlimit(word: Word, setting: Setting) -> Choices:
    """The burst and some more, from one host and from another one, to one and to another one."""
    burst = setting.option("hashlimit", "--hashlimit-burst", "5")
    return _many(int(burst) if burst.isdigit() else 5, setting)


@generates("-m", match="recent")
def recent(word: Word, setting: Setting) -> Choices:
    """As many as the list asks for and some more."""
    return _many(int(setting.option("recent", "--hitcount", "1")), setting)


@generates("--connlimit-above", "--connlimit-upto")
def connlimit(word: Word, setting: Setting) -> Choices:
    """As many connections and some more."""
    return _many(int(word.value), setting)


@generates("--every")
def nth(word: Word, setting: Setting) -> Choices:
    """Two rounds."""
    return _many(2 * int(word.value), setting)


@generates("--quota")
def quota(word: Word, setting: Setting) -> Choices:
    """Until it is used up, if that comes soon."""
    return _many(int(word.value) // 52, setting)


def _many(count: int, setting: Setting) -> Choices:
    source, destination = ELSEWHERE[setting.family]
    number = min(count, _MOST) + _MORE
    others = {"source": source[:-1] + "8"}, {"destination": destination[:-1] + "8"}, {"dport": 7}, {"sport": 7}
    few = tuple({**other, "repeat": 2} for other in others)
    return Choices(({"repeat": number},), ({"repeat": 1}, *few))
