"""Tokens of limits that elements of a set have: taken out, as no message to the kernel does it.

An element begins with a full bucket (nft_limit_clone() in nft_limit.c); only a packet that asks takes from it. For a
moment the set's table has chains of ours at the very beginning of OUTPUT. Packets of ours to the loopback say in their
payload which key is meant and how often it is to be asked; behind that they are dropped. No other rule, no conntrack,
no interface and no socket sees them.
"""

from __future__ import annotations

import errno
import secrets
import socket
import struct
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import NfkeepError, PermissionDeniedError, UnsupportedError
from nfkeep.model import Family, Hook
from nfkeep.nft import lasting
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.encode import flush_set, limit_expression
from nfkeep.nft.messages import NFT_MSG_NEWSETELEM, NLM_F_CREATE, Message
from nfkeep.nft.rule_counters import list_rules, seen
from nfkeep.nft.ruleset import AskLimit, Bitwise, Compare, Counter, Header, Jump, Key, Limit, Payload, Relation, Verdict
from nfkeep.nft.wire import attribute, data_value, nest, string

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import Self

    from nfkeep.nft.ruleset import Rule

_HEADER_BYTES = {Family.IPV4: 20, Family.IPV6: 40}
_LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}
_PROTOCOL = 253  # for experiments (RFC 3692)
_NONCE_BYTES, _COUNT_BYTES = 12, 4
_BITS = 12  # each level of chains is a jump deeper; the kernel has room for 16 (NFT_JUMP_STACK_SIZE)
_MOST = (1 << _BITS) - 1
_BASE = "nfkeep-tokens"
_OURS = f"{_BASE}-taken"
_FIRST = -(1 << 31)  # NF_IP_PRI_FIRST
_AT_ONCE = 300  # elements in one message, whose attributes have lengths of 16 bits
_LARGEST = 1500
"""Octets of a packet."""


@attrs.frozen(slots=True)
class LimitedSet:
    """A set of a table of family ip or ip6 whose elements have limits; `timeout_ms` is what they are kept for."""

    family: Family
    table: str
    name: str
    timeout_ms: int
    limit: Limit


def add_keys(limited: LimitedSet, left_ms: Mapping[bytes, int], *, plain: bool = False) -> list[Message]:
    """The messages that add elements, with what is left of their time; `plain` ones have no limit."""
    where = string(1, limited.table) + string(2, limited.name)
    expression = b"" if plain else limit_expression(7, limited.limit)
    timeout = attribute(4, struct.pack("!Q", limited.timeout_ms))
    listed = [
        nest(1, data_value(1, key) + timeout + attribute(5, struct.pack("!Q", left)) + expression)
        for key, left in left_ms.items()
    ]
    return [
        Message(
            NFT_MSG_NEWSETELEM,
            NLM_F_CREATE,
            where + nest(3, b"".join(listed[first : first + _AT_ONCE])),
            f"the elements of the set {limited.name}",
            limited.family.value,
        )
        for first in range(0, len(listed), _AT_ONCE)
    ]


class Drain:
    """Takes tokens from elements of one set, all of whose buckets are full when it begins.

    A context manager, for one thread in one network namespace. `key_bytes`: how long a key is. Raises
    PermissionDeniedError, UnsupportedError, CommitError.
    """

    def __init__(
        self, opened: BatchSocket, limited: LimitedSet, left_ms: Mapping[bytes, int], *, key_bytes: int
    ) -> None:
        self._opened, self._limited = opened, limited
        self._nonce = secrets.token_bytes(_NONCE_BYTES)
        self._to = _LOOPBACK[limited.family], 0
        self._smallest = _HEADER_BYTES[limited.family] + _NONCE_BYTES + _COUNT_BYTES + key_bytes
        self._sent = 0
        self._raw = _raw_socket(limited.family)
        try:
            opened.run([
                attrs.evolve(flush_set(limited.table, limited.name), family=limited.family.value),
                *add_keys(limited, left_ms), *self._chains(key_bytes),
            ])  # fmt: skip
        except BaseException:
            self._raw.close()
            raise

    def take(self, key: bytes, number: int) -> None:
        """Take so many packets' tokens from the bucket of a key, or so many bytes' but for a few of them.

        What is in the bucket, at most: it never has less than nothing.
        """
        for times, octets in self._packets(number):
            payload = self._nonce + times.to_bytes(_COUNT_BYTES, "big") + key
            self._sent += 1
            try:
                self._raw.sendto(payload + bytes(octets - self._smallest), self._to)
            except PermissionError:  # that is how nf_hook_slow() tells the sender that it was dropped
                continue
            except OSError as error:
                raise UnsupportedError(f"nothing can be sent to {self._to[0]}: {error.strerror}", "loopback") from error

    def check(self) -> None:
        """Raise NfkeepError unless all packets have come to where they take tokens."""
        listed = list_rules(self._opened, self._limited.family.value, self._limited.table, _BASE)
        [rule] = seen(self._limited.family.value, listed)
        counted = rule.counters.packets if rule.counters else 0
        if counted != self._sent:
            raise NfkeepError(f"{counted} of {self._sent} packets that are to take tokens came to where they do")

    def close(self) -> None:
        """Take the chains away."""
        self._raw.close()
        table, number = self._limited.table, self._limited.family.value
        names = [_BASE, _OURS, *map(_level, reversed(range(_BITS)))]
        messages = [lasting.delete_rules(table, name) for name in names]
        messages += [lasting.delete_chain(table, name) for name in names]
        self._opened.run([attrs.evolve(each, family=number) for each in messages])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _packets(self, number: int) -> Iterator[tuple[int, int]]:
        """How often each packet is to be counted, and how many octets it has."""
        if not self._limited.limit.in_bytes:
            while number > 0:
                yield min(number, _MOST), self._smallest
                number -= _MOST
            return
        while (times := min(number // _LARGEST, _MOST)) > 0:
            yield times, _LARGEST
            number -= times * _LARGEST
        if number >= self._smallest:
            yield 1, number

    def _chains(self, key_bytes: int) -> list[Message]:
        """Chains that ask 1, 2, 4, 8 … times, and one that jumps to those whose bit is set in the packet's number."""
        table = self._limited.table
        start = _HEADER_BYTES[self._limited.family]
        ours = (Payload(Header.NETWORK, start, _NONCE_BYTES), Compare(Relation.EQ, self._nonce))
        ask = Key(Header.NETWORK, start + _NONCE_BYTES + _COUNT_BYTES, key_bytes)
        rules: list[tuple[str, Rule]] = [(_level(0), (ask, AskLimit(self._limited.name, self._limited.limit)))]
        for level in range(1, _BITS):
            rules += [(_level(level), (Jump(_level(level - 1)),))] * 2
        for level in range(_BITS):
            bit = (1 << level).to_bytes(_COUNT_BYTES, "big")
            count = Payload(Header.NETWORK, start + _NONCE_BYTES, _COUNT_BYTES)
            test = (count, Bitwise(bit, bytes(_COUNT_BYTES)), Compare(Relation.EQ, bit))
            rules.append((_OURS, (*test, Jump(_level(level)))))
        rules += [(_OURS, (Verdict.DROP,)), (_BASE, (*ours, Counter(), Jump(_OURS, goto=True)))]
        names = [*map(_level, range(_BITS)), _OURS]
        messages = [lasting.new_chain(table, name, exclusive=True) for name in names]
        messages.append(lasting.new_base_chain(table, _BASE, Hook.OUTPUT, _FIRST))
        messages += [lasting.new_rule(table, chain, rule, "takes tokens") for chain, rule in rules]
        return [attrs.evolve(each, family=self._limited.family.value) for each in messages]


def _level(level: int) -> str:
    return f"{_BASE}-{1 << level}"


def _raw_socket(family: Family) -> socket.socket:
    try:
        return socket.socket(family.value, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _PROTOCOL)
    except PermissionError:
        raise PermissionDeniedError("sending packets", "root, or the capability CAP_NET_RAW") from None
    except OSError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            raise UnsupportedError(f"no raw socket: {error.strerror}", "raw sockets") from error
        raise
