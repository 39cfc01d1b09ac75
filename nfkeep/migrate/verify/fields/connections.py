"""States of connections: each is a sequence of packets that ends in the wanted one (see sequences.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.verify.fields import addresses, ports
from nfkeep.migrate.verify.fields.choices import Choices, generates
from nfkeep.migrate.verify.sequences import STATES

if TYPE_CHECKING:
    from nfkeep.migrate.verify.fields.choices import Fields, Setting
    from nfkeep.migrate.verify.words import Word


@generates("--state", "--ctstate")
def state(word: Word, setting: Setting) -> Choices:
    """Sequences for every state, the wanted ones first."""
    wanted = set(word.value.split(","))
    holds = [{"state": name} for name, kinds in STATES.items() if wanted & kinds]
    return Choices(tuple(holds), tuple({"state": name} for name, kinds in STATES.items() if not wanted & kinds))


@generates("--ctstatus", "--ctdir", "--connbytes", "--ctexpire", "--helper", "--label")
@generates("--mark", match="connmark")
def any_state(word: Word, setting: Setting) -> Choices:
    """Sequences of every kind: which hold depends."""
    return Choices(({"state": "established"},), tuple({"state": name} for name in STATES))


@generates("--ctproto")
def original_protocol(word: Word, setting: Setting) -> Choices:
    """As -p; a connection of that protocol and of others."""
    return ports.protocol(word, setting)


@generates("--ctorigsrc", "--ctorigdst", "--ctreplsrc", "--ctrepldst")
def addresses_of_connection(word: Word, setting: Setting) -> Choices:
    """As -s and -d, also on the way back."""
    ours = word.name in ("--ctorigsrc", "--ctrepldst")
    return _also_back(addresses.network(attrs.evolve(word, name="-s" if ours else "-d"), setting))


@generates("--ctorigsrcport", "--ctorigdstport", "--ctreplsrcport", "--ctrepldstport")
def ports_of_connection(word: Word, setting: Setting) -> Choices:
    """As --sport and --dport, also on the way back."""
    ours = word.name in ("--ctorigsrcport", "--ctrepldstport")
    return _also_back(ports.one_side(attrs.evolve(word, name="--sport" if ours else "--dport"), setting))


def _also_back(choices: Choices) -> Choices:
    def both(rows: tuple[Fields, ...]) -> tuple[Fields, ...]:
        return (*rows, *({**row, "state": state} for row in rows[:2] for state in ("established", "reply")))

    return Choices(both(choices.holds), both(choices.fails))
