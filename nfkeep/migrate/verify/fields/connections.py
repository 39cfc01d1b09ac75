"""States of connections: each is a sequence of packets that ends in the wanted one (see sequences.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.verify.fields.choices import Choices, generates
from nfkeep.migrate.verify.sequences import STATES

if TYPE_CHECKING:
    from nfkeep.migrate.verify.fields.choices import Setting
    from nfkeep.migrate.verify.words import Word


@generates("--state", "--ctstate")
def state(word: Word, setting: Setting) -> Choices:
    """Sequences for every state, the wanted ones first."""
    wanted = set(word.value.split(","))
    holds = [{"state": name} for name, kinds in STATES.items() if wanted & kinds]
    return Choices(tuple(holds), tuple({"state": name} for name, kinds in STATES.items() if not wanted & kinds))


@generates("--ctstatus", "--ctdir", "--connbytes", "--ctexpire", "--ctorigdstport", "--ctreplsrcport", "--helper")
def any_state(word: Word, setting: Setting) -> Choices:
    """Sequences of every kind: which hold depends."""
    named = list(STATES)
    return Choices(tuple({"state": name} for name in named[1:2]), tuple({"state": name} for name in named))
