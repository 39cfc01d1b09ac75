"""The allow lists of this network namespace: one for all ban lists in nft, one for all those of ipset and recent.

They are read and emptied here without a ban list at hand, as they outlive the last one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import attrs

from nfkeep.bans import legacy_allow
from nfkeep.bans.banlist import BanList
from nfkeep.bans.discover import lists
from nfkeep.bans.given import Given, read_address
from nfkeep.bans.nft_rules import ALLOW_SETS, ALLOWED, TABLE
from nfkeep.bans.nft_sets import AddressSets
from nfkeep.bans.values import Address, Kind, address_of
from nfkeep.errors import ListGoneError, NfkeepError, UnsupportedError
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.lasting import contents, delete_table
from nfkeep.nft.ruleset import Verdict

NFT, LEGACY = "nft", "ipset and recent"
"""Whose lists an allow list is for."""


@attrs.frozen(slots=True)
class Allowed:
    """An address that no ban has an effect on, and in whose lists: NFT or LEGACY."""

    address: Address
    of: str


def allowed() -> tuple[Allowed, ...]:
    """All that is in the allow lists. Raises PermissionDeniedError."""
    with _nft_sets() as sets:
        found = [Allowed(address_of(*entry), NFT) for entry in _entries(sets)]
    return (*found, *(Allowed(address_of(*entry), LEGACY) for entry in legacy_allow.allowed()))


def allow(addresses: Iterable[Given]) -> None:
    """Add to every allow list that is for a ban list; puts back, as every opening does, what is missing of that one.

    Raises InvalidAddressError before anything is changed; NfkeepError if there is no ban list.
    """
    given = list(addresses)
    for each in given:
        read_address(each)
    there = {NFT if listed.backend == "nft" else LEGACY: listed for listed in lists()}
    if not there:
        raise NfkeepError("there is no ban list here that an allow list could be for; make one, with its --allow")
    for listed in there.values():
        with BanList(listed.name, listed.backend, timeout=listed.timeout) as bans:
            bans.allow(*given)


def disallow(addresses: Iterable[Given]) -> frozenset[Given]:
    """Take out of all allow lists; those that were in one. Raises InvalidAddressError before anything is changed."""
    entries = {each: read_address(each) for each in addresses}
    with _nft_sets() as sets:
        there = set(_entries(sets))
        found = {each for each, entry in entries.items() if entry in there and sets.remove(*entry)}
    for each, entry in entries.items():
        if legacy_allow.disallow(*entry):
            found.add(each)
    _tidy()
    return frozenset(found)


@contextlib.contextmanager
def _nft_sets() -> Iterator[AddressSets]:
    sets = AddressSets(ALLOW_SETS, ALLOW_SETS, ALLOWED, Verdict.ACCEPT, 1)
    try:
        yield sets
    finally:
        sets.close()


def _entries(sets: AddressSets) -> Iterator[tuple[Kind, bytes]]:
    try:
        for kind in Kind:
            for element in sets.elements(kind):
                yield kind, element.key
    except (ListGoneError, UnsupportedError):  # there is no such table, or no nf_tables at all
        return


def _tidy() -> None:
    """Delete the table in nft if it has neither a ban list nor an allow list any more, and nobody is at it just now."""
    asking = BatchSocket()
    try:
        generation = asking.generation()
        chains = contents(asking, TABLE).chains
        with _nft_sets() as sets:
            used = any(True for _ in _entries(sets))
        if ALLOWED in chains and not used and not any(chain.startswith("ban/") for chain in chains):
            asking.send([delete_table(TABLE)], generation)
    except UnsupportedError:
        pass
    finally:
        asking.close()
