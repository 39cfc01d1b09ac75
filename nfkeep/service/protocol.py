"""What goes over the socket: what can be asked, what can be wrong, and how answers are written.

One JSON object on a line each way; answers are ASCII without control characters, whatever was asked.
"""

from __future__ import annotations

import enum
import json

import attrs

from nfkeep.errors import NfkeepError, RefusedBansError

MOST_AT_ONCE = 1000
"""Addresses in one ban_many, and bans in one answer to bans."""
_MOST_TOLD = 100  # refused addresses in one answer


class Operation(enum.Enum):
    """What a client can ask for."""

    PING = "ping"
    BAN = "ban"
    BAN_MANY = "ban_many"
    UNBAN = "unban"
    CONTAINS = "contains"
    BANS = "bans"


class Trouble(enum.Enum):
    """The kinds of error that are the service's own; all others are named as the classes of nfkeep.errors."""

    BAD_REQUEST = "BadRequest"
    FORBIDDEN = "Forbidden"
    TOO_FAST = "TooFast"
    TOO_LARGE = "TooLarge"
    OVER_QUOTA = "OverQuota"
    BUSY = "Busy"
    INTERNAL = "InternalError"


class Refusal(NfkeepError):
    """A request that is answered with an error of the service's own. `kind`."""

    def __init__(self, kind: Trouble, message: str) -> None:
        self.kind = kind
        super().__init__(message)


@attrs.frozen(slots=True)
class Request:
    """What a client asks for, of the right types and sizes; whether it may, and what the words mean, is yet to be seen.

    Timeouts are seconds; None is the list's own, math.inf for ever. `items`: the addresses of ban_many, with timeouts.
    """

    operation: Operation
    list_name: str = ""
    address: str = ""
    items: tuple[tuple[str, float | None], ...] = ()
    timeout: float | None = None
    comment: str = ""
    after: str = ""
    limit: int = MOST_AT_ONCE


def answer(id_json: str, body: dict[str, object]) -> bytes:
    """The line that says a request was done."""
    return _line(id_json, {"ok": True, **body})


def refusal(id_json: str, error: NfkeepError) -> bytes:
    """The line that says why a request was not done, or not all of it."""
    told: dict[str, object] = _told(error)
    if isinstance(error, RefusedBansError):
        told["banned"] = error.banned
        told["refused_count"] = len(error.refused)
        told["refused"] = [{"address": str(given)[:80], **_told(why)} for given, why in error.refused[:_MOST_TOLD]]
    return _line(id_json, {"ok": False, "error": told})


_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def _line(id_json: str, body: dict[str, object]) -> bytes:
    return f'{{"id":{id_json},{_encoder.encode(body)[1:]}\n'.encode("ascii")


def _told(error: NfkeepError) -> dict[str, object]:
    kind = error.kind.value if isinstance(error, Refusal) else type(error).__name__
    return {"kind": kind, "message": str(error)}
