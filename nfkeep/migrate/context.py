"""What a translator knows of the rule's surroundings, and what it may ask for: sets and objects, and admissions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.keep.report import Fidelity
from nfkeep.migrate.loss import Loss, Lost
from nfkeep.migrate.names import identifier
from nfkeep.migrate.survey import Survey
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.migrate.ipset_members import Members
    from nfkeep.migrate.parts import Part, Simple
    from nfkeep.migrate.rule import ParsedRule
    from nfkeep.migrate.source import SourceRule


@attrs.frozen(slots=True)
class Declaration:
    """A named thing of an nft table: `set`, `map`, `limit`, `quota`, `counter`, `ct helper`, …, and what is in it.

    `members`: the elements of a set that was one of ipset.
    """

    kind: str
    name: str
    body: tuple[str, ...]
    members: Members | None = None


class Objects:
    """The named things of one nft table, each declared once, in the order of their first use."""

    def __init__(self) -> None:
        self._all: dict[str, Declaration] = {}

    def declare(self, kind: str, name: str, body: tuple[str, ...], members: Members | None = None) -> str:
        """Have it in the table; its name there. Raises Lost if another thing has this name already."""
        wanted = Declaration(kind, identifier(name), body, members)
        present = self._all.setdefault(wanted.name, wanted)
        if present != wanted:
            raise Lost(f"{name} is used with different parameters", "give the rules different names")
        return wanted.name

    def fresh(self, name: str) -> str:
        """A name that nothing has yet, made from this one."""
        return next(each for each in _numbered(name) if not self.known(each))

    def known(self, name: str) -> bool:
        """Whether something of this name is declared."""
        return identifier(name) in self._all

    def keep(self, number: int) -> None:
        """Forget all but the first so many, which a rule has declared that is not translated after all."""
        for name in list(self._all)[number:]:
            del self._all[name]

    def __len__(self) -> int:
        return len(self._all)

    def all(self) -> tuple[Declaration, ...]:
        """Everything that was declared."""
        return tuple(self._all.values())


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


@attrs.define(slots=True)
class Context:
    """The rule that is being translated, and where it stands.

    `table` and `chain` are iptables' names; `policy` is that of the chain, None for a user chain. `hooks` are the
    builtin chains from which packets get to the rule, `siblings` all rules of its chain, `parts` what its head and its
    matches became (for targets). `comment` is what the nft rule will have for people. `tracked` is what has to be done
    to the rule's packets in a chain of its own, behind conntrack. `defragmented`: the rules see no fragments, as
    conntrack is in use. `general` are admissions that hold for every rule of a kind. `survey` knows the other rules,
    and the sets of ipset.
    """

    family: Family
    table: str
    chain: str
    policy: str | None
    rule: ParsedRule
    objects: Objects
    survey: Survey = attrs.Factory(Survey)
    losses: list[Loss] = attrs.Factory(list)
    comment: str = ""
    hooks: frozenset[str] = frozenset()
    siblings: tuple[SourceRule, ...] = ()
    parts: tuple[Part, ...] = ()
    tracked: list[Simple] = attrs.Factory(list)
    defragmented: bool = False
    general: list[Loss] = attrs.Factory(list)

    @property
    def v6(self) -> bool:
        """Whether this is ip6tables' rule."""
        return self.family is Family.IPV6

    @property
    def ip(self) -> str:
        """The family as nft's expressions have it: ip or ip6."""
        return "ip6" if self.v6 else "ip"

    @property
    def earlier(self) -> tuple[SourceRule, ...]:
        """The rules before this one in its chain."""
        return tuple(each for each in self.siblings if each.line < self.rule.source.line)

    @property
    def protocol(self) -> str | None:
        """The protocol that the rule's head demands, as iptables prints it; None without or with a negated one."""
        option = self.rule.of_head("-p")
        return None if option is None or option.negated else option.value

    @property
    def later(self) -> tuple[SourceRule, ...]:
        """The rules after this one in its chain."""
        return tuple(each for each in self.siblings if each.line > self.rule.source.line)

    def approximate(self, part: object, reason: str, advice: str = "") -> None:
        """Admit that what is translated is not quite equal: the error goes into `reason`."""
        self.losses.append(self._approximated(part, reason, advice))

    def approximate_in_general(self, part: object, reason: str, advice: str = "") -> None:
        """Admit what holds for every rule of this kind: it is said once in a translation, at the first of them."""
        self.general.append(self._approximated(part, reason, advice))

    def _approximated(self, part: object, reason: str, advice: str) -> Loss:
        source = self.rule.source
        return Loss(source.line, source.text, str(part), reason, advice, Fidelity.APPROXIMATED)
