"""Every error that nfkeep raises, as one tree; callers catch by class and read the attributes, never the text.

NfkeepError
├── InvalidRuleError        rule text that iptables itself would refuse
├── StateLossError          the plan would lose state and the caller asked to refuse that
├── UnsupportedError        this kernel or this host cannot do what was asked
├── LockTimeoutError        somebody else holds the xtables lock
├── ConflictError           the table was changed by a writer that ignores the lock
├── PermissionDeniedError   CAP_NET_ADMIN (or a file) is out of reach
├── InvalidAddressError     what was given is no address that can be banned
├── InvalidListError        a ban list that cannot be: its name, its services, what it is to do
├── InvalidBanError         a ban that cannot be: its timeout, its comment
├── AllowedAddressError     the allow list, or plain prudence, speaks against this ban
├── ListGoneError           another program has removed the list
├── ListFullError           the kernel would drop an older ban for this one, or refuses more
├── RefusedBansError        of many bans some were refused; the others are in force
└── CommitError             the kernel refused a change; .applied says whether the rules are live
"""

from __future__ import annotations

__all__ = [
    "AllowedAddressError",
    "CommitError",
    "ConflictError",
    "InvalidAddressError",
    "InvalidBanError",
    "InvalidListError",
    "InvalidRuleError",
    "ListFullError",
    "ListGoneError",
    "LockTimeoutError",
    "NfkeepError",
    "PermissionDeniedError",
    "RefusedBansError",
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


class InvalidAddressError(NfkeepError, ValueError):
    """Not the text of an address or network that can be banned. `address` (as given), `reason`."""

    def __init__(self, address: object, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(f"{address!r:.120}: {reason}")


class InvalidBanError(NfkeepError, ValueError):
    """A timeout or a comment that a ban in this list cannot have; nothing was changed."""


class InvalidListError(NfkeepError, ValueError):
    """A ban list with such a name, such services or such a way to act cannot be; nothing was changed."""


class AllowedAddressError(NfkeepError):
    """An address that must not be banned. `address`, `reason`."""

    def __init__(self, address: object, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(f"{address} is not banned: {reason}")


class ListGoneError(NfkeepError):
    """The list is not there, or not any more: its bans are not in force. `list_name`; `open()` makes it anew, empty."""

    def __init__(self, list_name: str) -> None:
        self.list_name = list_name
        super().__init__(
            f"the ban list {list_name} is not there (any more): it was never made, or another program has removed it; "
            "open it again and put its bans back"
        )


class ListFullError(NfkeepError):
    """The list cannot take more. `list_name`, `size`; the message says what to set to make room."""

    def __init__(self, list_name: str, size: int, remedy: str) -> None:
        self.list_name = list_name
        self.size = size
        super().__init__(f"the ban list {list_name} is full with {size} entries: {remedy}")


class RefusedBansError(NfkeepError):
    """Some of many bans were refused; all the others are in force.

    Attributes: `refused` (pairs of the address as given and the error that speaks against it), `banned` (how many of
    the others are new or renewed).
    """

    def __init__(self, refused: tuple[tuple[object, NfkeepError], ...], banned: int) -> None:
        self.refused = refused
        self.banned = banned
        shown = "; ".join(str(error) for _, error in refused[:3])
        more = f"; and {len(refused) - 3} more" if len(refused) > 3 else ""
        super().__init__(f"{len(refused)} of {len(refused) + banned} bans were refused: {shown}{more}")


class CommitError(NfkeepError):
    """The kernel refused a change. `applied`: whether the new rules are nevertheless live; `errno`: the kernel's."""

    def __init__(self, message: str, *, applied: bool, errno: int = 0) -> None:
        self.applied = applied
        self.errno = errno
        super().__init__(message)
