"""Ban lists in nftables: the table `inet nfkeep`, which no rule of anybody else is in and no other tool changes.

What is there is adopted, whoever made it and whenever: this host's last process, or `nft -f` of a saved ruleset. The
kernel does each transaction whole or not at all, so that there is never a list without its rules, nor half of one.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator

from nfkeep.bans.backend import Added, Limits, Timeouts
from nfkeep.bans.nft_rules import (
    ALLOW_SETS,
    ALLOWED,
    BASE_CHAINS,
    LISTS,
    PRIORITY,
    TABLE,
    from_loopback,
    hit_chain,
    hit_rules,
    jump_to_list,
    jump_to_lists,
    list_chain,
    neighbour_discovery,
    read_label,
    read_policy,
    set_label,
)
from nfkeep.bans.nft_sets import AddressSets
from nfkeep.bans.values import Element, Fill, Kind, Policy
from nfkeep.errors import CommitError, InvalidListError, ListGoneError
from nfkeep.nft.addresses import Guards
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.lasting import (
    LONGEST_COMMENT,
    Contents,
    contents,
    delete_chain,
    delete_rules,
    delete_set,
    delete_table,
    new_base_chain,
    new_chain,
    new_rule,
    new_table,
)
from nfkeep.nft.messages import Message
from nfkeep.nft.ruleset import Jump, Verdict

_TABLE_COMMENT = "ban lists, by nfkeep"
_TRIES = 100
_ALLOW_SIZE = 4096


class NftBackend:
    """One list in `table inet nfkeep`; see nfkeep.bans.backend.Backend."""

    kind_name = "nft"
    limits = Limits(
        name_length=64,
        kinds=frozenset(Kind),
        timeout_ms=(1 << 32) * 1000,
        comment_bytes=LONGEST_COMMENT,
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self._opened: tuple[BatchSocket, AddressSets, AddressSets] | None = None

    def exists(self) -> bool:
        """As Backend.exists."""
        if self._opened is not None:
            return list_chain(self.name) in self._contents().chains
        asking = BatchSocket()
        try:
            return list_chain(self.name) in contents(asking, TABLE).chains
        finally:
            asking.close()

    def open(self, policy: Policy | None, size: int, list_timeout_ms: int | None) -> Policy:
        """As Backend.open."""
        if self._opened is None:
            to_hit = Jump(hit_chain(self.name), goto=True)
            self._opened = (
                BatchSocket(),
                AddressSets(self.name, list_chain(self.name), list_chain(self.name), to_hit, size),
                AddressSets(ALLOW_SETS, ALLOW_SETS, ALLOWED, Verdict.ACCEPT, _ALLOW_SIZE),
            )
        for _ in range(_TRIES):
            seen = self._contents()
            in_force = read_policy(seen.comments(hit_chain(self.name)))
            wanted = policy or in_force or Policy()
            missing = [*self._foundation(seen), *self._list(seen, wanted, in_force)]
            if not missing:
                return wanted
            refusal = self._socket().send(missing)
            # EEXIST, ENOENT, EBUSY: another process was making or removing the same
            if refusal is not None and refusal.errno not in (errno.EEXIST, errno.ENOENT, errno.EBUSY):
                raise refusal.error()
        raise CommitError(f"the ban list {self.name} is made and removed all the time", applied=False)

    def in_force(self) -> bool:
        """As Backend.in_force."""
        seen = self._contents()
        policy = read_policy(seen.comments(hit_chain(self.name)))
        return policy is not None and not [*self._foundation(seen), *self._list(seen, policy, policy)]

    @property
    def ban_host(self) -> Callable[[bytes, Guards, int], bool]:
        """As Backend.ban_host."""
        return self._sets().ban_host

    def unban_host(self, text: bytes) -> bool | None:
        """As Backend.unban_host."""
        return self._sets().unban_host(text)

    def add(self, kind: Kind, keys: bytes, timeouts: Timeouts, comment: str = "") -> Added:
        """As Backend.add."""
        return self._sets().add(kind, keys, timeouts, _userdata(comment))

    def remove(self, kind: Kind, keys: bytes) -> int:
        """As Backend.remove."""
        return self._sets().remove(kind, keys)

    def get(self, kind: Kind, key: bytes) -> Element | None:
        """As Backend.get."""
        return self._sets().get(kind, key)

    def elements(self, kind: Kind) -> Iterable[Element]:
        """As Backend.elements."""
        return self._sets().elements(kind)

    def count(self, kind: Kind) -> int:
        """As Backend.count."""
        return self._sets().count(kind)

    def fills(self) -> tuple[Fill, ...]:
        """As Backend.fills."""
        return tuple(self._sets().fills())

    def flush(self) -> None:
        """As Backend.flush."""
        self._sets().flush()

    def close(self) -> None:
        """As Backend.close."""
        opened, self._opened = self._opened, None
        for each in opened or ():
            each.close()

    def destroy(self) -> None:
        """As Backend.destroy."""
        for _ in range(_TRIES):
            generation = self._socket().generation()
            seen = self._contents()
            if list_chain(self.name) not in seen.chains:
                return
            last = [chain for chain in seen.chains if chain.startswith("ban/")] == self._chains(seen)
            if last and not self._has_allow_list():
                # with the generation: nobody has made a list in it meanwhile
                refusal = self._socket().send([delete_table(TABLE)], generation)
            else:
                refusal = self._socket().send(list(self._removal(seen)))
            if refusal is None:
                return
            if refusal.errno not in (errno.ERESTART, errno.ENOENT, errno.EBUSY):
                raise refusal.error()
        raise CommitError(f"the ban list {self.name} is made and removed all the time", applied=False)

    def allowed(self) -> Iterator[tuple[Kind, bytes]]:
        """As Backend.allowed."""
        for kind in Kind:
            for element in self._allow_sets().elements(kind):
                yield kind, element.key

    def allow(self, kind: Kind, keys: bytes) -> None:
        """As Backend.allow."""
        added = self._allow_sets().add(kind, keys, 0, b"")
        for _, error in added.refused:
            raise error

    def except_for(self, kind: Kind, key: bytes, timeout_ms: int, comment: str) -> None:
        """As Backend.except_for. What somebody has allowed stays allowed for ever."""
        there = self._allow_sets().get(kind, key)
        if there is None or there.timeout_ms:
            self._allow_sets().add(kind, key, timeout_ms, _userdata(comment))

    def disallow(self, kind: Kind, keys: bytes) -> int:
        """As Backend.disallow."""
        return self._allow_sets().remove(kind, keys)

    def _socket(self) -> BatchSocket:
        if self._opened is None:
            raise ListGoneError(self.name)
        return self._opened[0]

    def _sets(self) -> AddressSets:
        if self._opened is None:
            raise ListGoneError(self.name)
        return self._opened[1]

    def _allow_sets(self) -> AddressSets:
        if self._opened is None:
            raise ListGoneError(self.name)
        return self._opened[2]

    def _has_allow_list(self) -> bool:
        """Whether somebody has allowed anything; gateways, which are there for a time, come by themselves."""
        return any(not each.timeout_ms for kind in Kind for each in self._allow_sets().elements(kind))

    def _contents(self) -> Contents:
        return contents(self._socket(), TABLE)

    def _foundation(self, seen: Contents) -> Iterator[Message]:
        """What all lists share and is not there."""
        if ALLOWED not in seen.chains or LISTS not in seen.chains:
            yield new_table(TABLE, _TABLE_COMMENT)
            # exclusive: of two processes that make this at once, one comes second and looks again
            yield new_chain(TABLE, LISTS, exclusive=LISTS not in seen.chains)
            yield new_chain(TABLE, ALLOWED, exclusive=ALLOWED not in seen.chains)
        for comment, rule in (from_loopback(), neighbour_discovery()):
            if comment not in seen.comments(ALLOWED):
                yield new_rule(TABLE, ALLOWED, rule, comment)
        yield from _lookups(seen, self._allow_sets(), ALLOW_SETS, ALLOWED, 1)
        for name, hook in BASE_CHAINS.items():
            if name not in seen.chains:
                yield new_base_chain(TABLE, name, hook, PRIORITY)
            comment, rule = jump_to_lists()
            if comment not in seen.comments(name):
                yield new_rule(TABLE, name, rule, comment)

    def _list(self, seen: Contents, wanted: Policy, in_force: Policy | None) -> Iterator[Message]:
        """What is not there of the list, or not as wanted."""
        chain, hit = list_chain(self.name), hit_chain(self.name)
        expected = list(hit_rules(wanted))
        comments = tuple(comment for comment, _ in expected)
        if wanted != in_force or seen.comments(hit) != comments:
            if len(comments[0]) > LONGEST_COMMENT:
                raise InvalidListError(f"too many services for one ban list: {wanted}")
            yield new_chain(TABLE, hit, exclusive=hit not in seen.chains)
            if hit in seen.chains:
                yield delete_rules(TABLE, hit)
            yield from (new_rule(TABLE, hit, rule, each) for each, rule in expected)
        if chain not in seen.chains:
            yield new_chain(TABLE, chain, exclusive=True)
        yield from _lookups(seen, self._sets(), chain, chain, 3)
        comment, rule = jump_to_list(self.name)
        if comment not in seen.comments(LISTS):
            yield new_rule(TABLE, LISTS, rule, comment)

    def _chains(self, seen: Contents) -> list[str]:
        return [chain for chain in seen.chains if chain in (list_chain(self.name), hit_chain(self.name))]

    def _removal(self, seen: Contents) -> Iterator[Message]:
        for rule in seen.rules.get(LISTS, ()):
            if rule.comment == self.name:
                yield delete_rules(TABLE, LISTS, rule.handle)
        for chain in self._chains(seen):
            yield delete_rules(TABLE, chain)
        for chain in self._chains(seen):
            yield delete_chain(TABLE, chain)
        own = f"{list_chain(self.name)}/"
        for name in seen.sets:
            if name.startswith(own) and read_label(name.removeprefix(own)) is not None:
                yield delete_set(TABLE, name)


def _userdata(comment: str) -> bytes:
    """A comment as the nft command writes it."""
    text = comment.encode() + b"\0"
    return bytes([0, len(text)]) + text if comment else b""


def _lookups(seen: Contents, sets: AddressSets, prefix: str, chain: str, number: int) -> Iterator[Message]:
    """The sets of hosts, numbered from `number`, and the rules of all sets, as far as they are not there."""
    there = {name.removeprefix(f"{prefix}/") for name in seen.sets if name.startswith(f"{prefix}/")}
    hosts = [set_label(Kind.HOST4), set_label(Kind.HOST6)]
    for each, label in enumerate(hosts, number):
        if label not in there:
            yield sets.set_message(label, each)
    for label in [*hosts, *sorted(there.difference(hosts))]:
        if read_label(label) is not None and label not in seen.comments(chain):
            yield sets.rule(label)
