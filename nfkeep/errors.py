"""Every error that nfkeep raises, as one tree; callers catch by class and read the attributes, never the text.

NfkeepError
├── InvalidRuleError        rule text that iptables itself would refuse
├── StateLossError          the plan would lose state and the caller asked to refuse that
├── UnsupportedError        this kernel or this host cannot do what was asked
├── LockTimeoutError        somebody else holds the xtables lock
├── ConflictError           the table was changed by a writer that ignores the lock
├── PermissionDeniedError   CAP_NET_ADMIN (or a file) is out of reach
└── CommitError             the kernel refused a change; .applied says whether the rules are live
"""

from __future__ import annotations

__all__ = [
    "CommitError",
    "ConflictError",
    "InvalidRuleError",
    "LockTimeoutError",
    "NfkeepError",
    "PermissionDeniedError",
    "StateLossError",
    "UnsupportedError",
]


class NfkeepError(Exception):
    """Anything that nfkeep can raise."""


class InvalidRuleError(NfkeepError):
    """A rule, chain or position that cannot be; nothing was changed.

    Attributes: `rule` (the text as given, or None), `reason` (the extension's own words where it has some).
    """

    def __init__(self, reason: str, rule: str | None = None) -> None:
        self.reason = reason
        self.rule = rule
        super().__init__(f"{reason} (in: {rule})" if rule is not None else reason)


class StateLossError(NfkeepError):
    """The change would lose state; nothing was changed. `outcomes` holds those that would be lost."""

    def __init__(self, outcomes: tuple[object, ...]) -> None:
        self.outcomes = outcomes
        super().__init__("this change would lose state: " + "; ".join(str(outcome) for outcome in outcomes))


class UnsupportedError(NfkeepError):
    """The kernel, or this host's set-up, cannot do what was asked. `feature` names what is missing."""

    def __init__(self, message: str, feature: str | None = None) -> None:
        self.feature = feature
        super().__init__(message)


class LockTimeoutError(NfkeepError):
    """The xtables lock stayed with somebody else. `path`, `waited_seconds`."""

    def __init__(self, path: str, waited_seconds: float) -> None:
        self.path = path
        self.waited_seconds = waited_seconds
        super().__init__(
            f"another program held the xtables lock {path} for all of {waited_seconds:.1f} s; "
            "wait for it to finish, or raise the lock timeout"
        )


class ConflictError(NfkeepError):
    """The table changed under the transaction by a writer that ignores the xtables lock; nothing was changed by us.

    Attributes: `table`.
    """

    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(
            f"table {table} was changed by another program that does not take the xtables lock; "
            "nothing was committed, run the change again"
        )


class PermissionDeniedError(NfkeepError):
    """The caller lacks a right. `needed` says which one."""

    def __init__(self, doing: str, needed: str = "root, or the capabilities CAP_NET_ADMIN and CAP_NET_RAW") -> None:
        self.needed = needed
        super().__init__(f"{doing}: permission denied; this needs {needed}")


class CommitError(NfkeepError):
    """The kernel refused a change. `applied`: whether the new rules are nevertheless live; `errno`: the kernel's."""

    def __init__(self, message: str, *, applied: bool, errno: int = 0) -> None:
        self.applied = applied
        self.errno = errno
        super().__init__(message)
