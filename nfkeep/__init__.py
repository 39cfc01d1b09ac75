"""nfkeep keeps the state of netfilter rules (connlimit counts, lists, buckets) through every rule change.

The public names; each is loaded on first use, so that importing nfkeep costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfkeep import migrate
    from nfkeep.bans.banlist import BanList
    from nfkeep.bans.values import Ban
    from nfkeep.errors import (
        AllowedAddressError,
        CommitError,
        ConflictError,
        InvalidAddressError,
        InvalidBanError,
        InvalidListError,
        InvalidRuleError,
        ListFullError,
        ListGoneError,
        LockTimeoutError,
        NfkeepError,
        PermissionDeniedError,
        RefusedBansError,
        StateLossError,
        UnsupportedError,
    )
    from nfkeep.keep.keeping import Keeping, keep
    from nfkeep.keep.recovery import recover
    from nfkeep.keep.report import Fidelity, Outcome, Recovered, Report
    from nfkeep.keep.transaction import Transaction, Transactions, transaction, transactions
    from nfkeep.model import Chain, Counters, Family, Table
    from nfkeep.xtables.tables import read
    from nfkeep.xtables.text import Rule

__version__ = "0.1.0"

_HOMES = {
    "nfkeep.bans.banlist": ("BanList",),
    "nfkeep.bans.values": ("Ban",),
    "nfkeep.errors": (
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
    ),
    "nfkeep.keep.report": ("Fidelity", "Outcome", "Recovered", "Report"),
    "nfkeep.keep.keeping": ("Keeping", "keep"),
    "nfkeep.keep.recovery": ("recover",),
    "nfkeep.keep.transaction": ("Transaction", "Transactions", "transaction", "transactions"),
    "nfkeep.model": ("Chain", "Counters", "Family", "Table"),
    "nfkeep.xtables.tables": ("read",),
    "nfkeep.xtables.text": ("Rule",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_PACKAGES = frozenset({"migrate"})

__all__ = [
    "AllowedAddressError",
    "Ban",
    "BanList",
    "Chain",
    "CommitError",
    "ConflictError",
    "Counters",
    "Family",
    "Fidelity",
    "InvalidAddressError",
    "InvalidBanError",
    "InvalidListError",
    "InvalidRuleError",
    "Keeping",
    "ListFullError",
    "ListGoneError",
    "LockTimeoutError",
    "NfkeepError",
    "Outcome",
    "PermissionDeniedError",
    "Recovered",
    "RefusedBansError",
    "Report",
    "Rule",
    "StateLossError",
    "Table",
    "Transaction",
    "Transactions",
    "UnsupportedError",
    "keep",
    "migrate",
    "read",
    "recover",
    "transaction",
    "transactions",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"nfkeep.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'nfkeep' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
