"""Reads requests: bytes that anybody may have sent come in, a Request of the right types and sizes comes out.

Whatever a line holds, this takes time and memory that its length bounds; what is wrong with it makes a Refusal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import NoReturn

from nfkeep.service.protocol import MOST_AT_ONCE, Operation, Refusal, Request, Trouble

_LONGEST_ID = 1000  # characters, as JSON
_LONGEST_SECONDS = float(1 << 32)


def read_object(line: bytes) -> dict[str, object]:
    """The JSON object on a line; raises Refusal."""
    try:
        found = _decoder.decode(line.decode("utf-8"))
    except RecursionError:
        _bad("the line is nested too deeply")
    except UnicodeDecodeError as error:
        _bad(f"the line is not UTF-8 at byte {error.start}")
    except ValueError as error:  # its text has no part of the line in it
        _bad(f"the line is not JSON: {error}")
    if not isinstance(found, dict):
        _bad("the line is not a JSON object")
    return found


def read_id(found: dict[str, object]) -> str:
    """The `id` of a request, as JSON, to be put into its answer as it is; raises Refusal."""
    try:
        text = json.dumps(found.get("id"), separators=(",", ":"))
    except RecursionError:
        _bad("the id is nested too deeply")
    if len(text) > _LONGEST_ID:
        _bad(f"the id has more than {_LONGEST_ID} characters as JSON")
    return text


def read_request(found: dict[str, object]) -> Request:
    """The request that an object is; raises Refusal."""
    name = found.get("op")
    if not isinstance(name, str):  # whose repr() may be nested as deeply as can be
        _bad("'op' is not a string")
    if name not in _OPERATIONS:
        _bad(f"there is no op {name!r:.40}; there are {', '.join(_OPERATIONS)}")
    operation = _OPERATIONS[name]
    fields = _FIELDS[operation]
    values = {}
    for key, value in found.items():
        if key in ("id", "op"):
            continue
        if key not in fields:
            _bad(f"{name} takes no {key!r:.40}; it takes {', '.join(fields) or 'nothing'}")
        values[_ATTRIBUTES.get(key, key)] = fields[key](key, value)
    for key in fields:
        if key not in found and key not in _OPTIONAL:
            _bad(f"{name} needs {key!r}")
    return Request(operation, **values)  # type: ignore[arg-type]  # each reader gives what its field holds


def _bad(message: str) -> NoReturn:
    raise Refusal(Trouble.BAD_REQUEST, message)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):  # two programs could take two different ones
        raise ValueError("a key comes twice in one object")
    return found


def _integer(text: str) -> int:
    if len(text) > 20:
        raise ValueError("a number has more than 20 digits")
    return int(text)


def _real(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        _bad(f"{key!r} is not a string")
    return value


def _timeout(key: str, value: object) -> float | None:
    if value is None:
        return None
    if value == "forever":
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        _bad(f'{key!r} is not a number of seconds, null or "forever"')
    if not 0 < value <= _LONGEST_SECONDS:
        _bad(f'{key!r} is not more than 0 and at most {_LONGEST_SECONDS:.0f} seconds; for ever is "forever"')
    return float(value)


def _items(key: str, value: object) -> tuple[tuple[str, float | None], ...]:
    if not isinstance(value, list):
        _bad(f"{key!r} is not a list")
    if len(value) > MOST_AT_ONCE:
        raise Refusal(Trouble.TOO_LARGE, f"{len(value)} addresses in one request; at most {MOST_AT_ONCE}")
    return tuple(_item(each) for each in value)


def _item(value: object) -> tuple[str, float | None]:
    if isinstance(value, str):
        return value, None
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
        return value[0], _timeout("timeout", value[1])
    _bad("'addresses' holds something that is neither an address nor [address, timeout]")


def _limit(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_AT_ONCE:
        _bad(f"{key!r} is not a number from 1 to {MOST_AT_ONCE}")
    return value


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_constant)
_OPERATIONS = {operation.value: operation for operation in Operation}
_Reader = Callable[[str, object], object]
_FIELDS: dict[Operation, dict[str, _Reader]] = {
    Operation.PING: {},
    Operation.BAN: {"list": _text, "address": _text, "timeout": _timeout, "comment": _text},
    Operation.BAN_MANY: {"list": _text, "addresses": _items, "timeout": _timeout},
    Operation.UNBAN: {"list": _text, "address": _text},
    Operation.CONTAINS: {"list": _text, "address": _text},
    Operation.BANS: {"list": _text, "after": _text, "limit": _limit},
}
_OPTIONAL = {"timeout", "comment", "after", "limit"}
_ATTRIBUTES = {"list": "list_name", "addresses": "items"}
