"""Holds placed and released by hand: a list that must outlive its rules, whatever somebody is about to do to them."""

from __future__ import annotations

from collections.abc import Callable

from nfkeep.errors import NfkeepError, UnsupportedError
from nfkeep.keep import hold
from nfkeep.keep.observe import StateKey, observe_table
from nfkeep.keep.plan import can_hold
from nfkeep.keep.recovery import recover_locked
from nfkeep.keep.report import Outcome
from nfkeep.model import Family
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.tables import in_use

_Held = tuple[Family, StateKey]


def _nobody(_: Outcome) -> None:
    pass


def place(
    states: list[StateKey], *, tell: Callable[[Outcome], object] = _nobody, lock_timeout: float | None = 60.0
) -> tuple[_Held, ...]:
    """Hold states that rules name now, in each family that names them.

    `tell` is called with what became of other state in the tables that this replaces.
    All or none: raises NfkeepError for one that no rule names, UnsupportedError for a kind that cannot be held.
    """
    for kind, name in states:
        if not can_hold((kind, name)):
            raise UnsupportedError(
                f"{kind}:{name}: only recent, hashlimit, rateest and idletimer live as long as a rule does",
                feature=kind,
            )
    with XtablesLock(lock_timeout):
        recover_locked()
        named = {
            family: {
                key: extension
                for table in in_use(family)
                for key, extension in observe_table(family, table).named().items()
            }
            for family in Family
        }
        for key in states:
            if not any(key in of for of in named.values()):
                raise NfkeepError(f"no rule of a legacy table names {key[0]}:{key[1]}, so there is nothing to hold")
        for family, of in named.items():
            for outcome in hold.place(family, [(key, of[key]) for key in states if key in of]):
                tell(outcome)
        return tuple((family, key) for family, of in named.items() for key in states if key in of)


def release(
    states: list[StateKey] | None = None,
    *,
    tell: Callable[[Outcome], object] = _nobody,
    lock_timeout: float | None = 60.0,
) -> tuple[_Held, ...]:
    """Remove the holds of these states, or all (None); a state that no other rule names is gone with its hold.

    `tell` is called with what became of other state in the tables that this replaces.
    All or none: raises NfkeepError for one that is not held.
    """
    with XtablesLock(lock_timeout):
        recover_locked()
        held = {family: hold.held(family) for family in Family}
        for key in states or ():
            if not any(key in of for of in held.values()):
                raise NfkeepError(f"{key[0]}:{key[1]} is not held")
        released = {family: {key for key in of if states is None or key in states} for family, of in held.items()}
        for family, keys in released.items():
            for outcome in hold.take_down(family, keys) if keys else ():
                tell(outcome)
        return tuple((family, key) for family, keys in released.items() for key in sorted(keys))
