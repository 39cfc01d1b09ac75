"""How the values in the configuration file are written: durations, rates, users, words.

Each reader takes the text of a value and raises ValueError with what is wrong about it.
"""

from __future__ import annotations

import functools
import grp
import math
import pwd
import re
from collections.abc import Callable

from nfkeep.bans.given import read_address
from nfkeep.errors import NfkeepError
from nfkeep.service.limits import Rate
from nfkeep.service.protocol import Operation


def whole(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers from `low` to `high`."""
    return functools.partial(_whole, low, high)


def one_of(*choices: str) -> Callable[[str], str]:
    """A reader of one of these words."""
    return functools.partial(_one_of, choices)


def path(text: str) -> str:
    """The absolute path of a unix socket."""
    if not text.startswith("/") or not text.isprintable():
        raise ValueError(f"{text!r:.80} is not an absolute path")
    if len(text.encode()) > 107:  # linux/un.h
        raise ValueError("the path of a unix socket has at most 107 bytes")
    return text


def seconds(text: str) -> float:
    """A duration: `90`, `90s`, `10m`, `1h30m`, `0.5s`, `7d`."""
    if re.fullmatch(r"[0-9]{1,10}|(?:[0-9]{1,9}(?:\.[0-9]{1,3})?[wdhms])+", text) is None:
        raise ValueError(f"{text!r:.40} is no duration such as 90s, 10m, 1h30m or 7d")
    value = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9.]+)([wdhms]?)", text))
    if not 0 < value <= 1 << 32:
        raise ValueError(f"{text!r:.40} is not more than 0 and at most {1 << 32} seconds")
    return value


def lasting(text: str) -> float:
    """A duration, or `forever`, which is math.inf."""
    return math.inf if text == "forever" else seconds(text)


def rate(text: str) -> Rate:
    """A rate: `100/s`, or `100/s burst 1000`; per `s`, `m` or `h`. Without a burst it is the number itself."""
    found = re.fullmatch(r"([0-9]{1,9}) ?/ ?([smh])(?: +burst +([0-9]{1,9}))?", text)
    if found is None:
        raise ValueError(f"{text!r:.40} is no rate such as 100/s, 30/m or 100/s burst 1000")
    number, burst = int(found[1]), int(found[3] or found[1])
    if not number or not burst:
        raise ValueError(f"{text!r:.40} would let nothing pass")
    return Rate(number / _SECONDS[found[2]], burst)


def truth(text: str) -> bool:
    """`yes` or `no`."""
    if text not in ("yes", "no"):
        raise ValueError(f"{text!r:.40} is neither yes nor no")
    return text == "yes"


def words(text: str) -> tuple[str, ...]:
    """Words with blanks or commas between them."""
    return tuple(text.replace(",", " ").split())


def addresses(text: str) -> tuple[str, ...]:
    """Hosts and networks."""
    for word in words(text):
        try:
            read_address(word)
        except NfkeepError as error:
            raise ValueError(str(error)) from None
    return words(text)


def users(text: str) -> frozenset[int]:
    """Names or numbers of users; their numbers."""
    return frozenset(_number(word, "user", lambda name: pwd.getpwnam(name).pw_uid) for word in words(text))


def group(text: str) -> int:
    """The name or number of a group; its number."""
    return _number(text, "group", lambda name: grp.getgrnam(name).gr_gid)


def groups(text: str) -> frozenset[int]:
    """Names or numbers of groups; their numbers."""
    return frozenset(group(word) for word in words(text))


def operations(text: str) -> frozenset[Operation]:
    """Operations; `ping` is everybody's and not among them."""
    choices = [each.value for each in Operation if each is not Operation.PING]
    return frozenset(Operation(_one_of(tuple(choices), word)) for word in words(text))


_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _whole(low: int, high: int, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
        raise ValueError(f"{text!r:.40} is not a whole number from {low} to {high}")
    return int(text)


def _one_of(choices: tuple[str, ...], text: str) -> str:
    if text not in choices:
        raise ValueError(f"{text!r:.40} is not one of {', '.join(choices)}")
    return text


def _number(word: str, what: str, look_up: Callable[[str], int]) -> int:
    if re.fullmatch(r"[0-9]{1,10}", word) and int(word) < (1 << 32) - 1:  # the last one means none
        return int(word)
    try:
        return look_up(word)
    except (KeyError, ValueError):  # ValueError: a NUL in it
        raise ValueError(f"there is no {what} {word!r:.40}") from None
