"""What a health check says of one thing: how bad it is, what was found, why that matters, and what mends it."""

from __future__ import annotations

import enum

import attrs

NEAR = 0.8
"""The part of its size from which on something is near it."""


class Severity(enum.Enum):
    """BAD has no effect, or loses something, now; WARN may, or soon will; OK is as it should be."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@attrs.frozen(slots=True)
class Finding:
    """What was found, why it matters, and the commands that mend it, one a line; both "" where nothing has to be."""

    severity: Severity
    what: str
    why: str = ""
    fix: str = ""
