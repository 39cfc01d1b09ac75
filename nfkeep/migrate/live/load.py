"""nft's rules brought in: first asleep, with all that is in their sets, then awake.

A dormant table has no hooks, so no packet passes its rules: however long it takes to load them, nobody waits for it. It
is then that nft and the kernel refuse what they do not take. Waking registers the hooks (nf_tables_table_enable() in
nf_tables_api.c), and that is quick.

Sets that are in use by packets' rules are filled before anything is awake, too: at no moment a rule misses an element.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import NfkeepError
from nfkeep.migrate.live.commands import NFT, Running, run_nft
from nfkeep.migrate.script import table_lines
from nfkeep.nft import still
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.elements import ADD, ElementSocket, SetHandle, fail
from nfkeep.nft.table_list import tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nfkeep.migrate.context import Declaration
    from nfkeep.migrate.ipset_plain import Plain
    from nfkeep.migrate.live.plan import Plan
    from nfkeep.migrate.script import NftTable
    from nfkeep.migrate.translation import Translation
    from nfkeep.model import Family

_AT_ONCE = 1000


def bring_in(plan: Plan, again: Callable[[], Plan]) -> Plan:
    """Load the tables asleep, with what is in their sets in the end; the plan that they are of.

    The sets that come from ipset are made first: `again` makes that plan, and they are filled by it, while nft is at
    work on the rules. Raises NfkeepError where nft does not take them; the caller takes out what is there. Tables that
    take the place of others cannot be there beside them: `wake` loads them.
    """
    if plan.host.iptables_nft:
        return again()
    whole = plan.whole_tables
    filled = [attrs.evolve(each, declarations=_with_members(each), chains=()) for each in whole]
    rest = [attrs.evolve(each, declarations=_without_members(each)) for each in whole]
    with Running(NFT, _asleep(filled)) as making:
        script = _asleep(rest, anew=False)
        _loaded(making)
    with Running(NFT, script) as loading:
        fresh = again()
        only_members = _only_members_differ(plan, fresh)
        if only_members:
            _fill(fresh)
        _loaded(loading)
    if not only_members:
        _load(_asleep(fresh.whole_tables))
        _fill(fresh)
    return fresh


def wake(plan: Plan, look: Callable[[], None]) -> None:
    """Have the tables in force, with what is listed of whom rules have seen; all of them, or none.

    `look` is called right before that moment and right after it, but not where they take the place of others.
    """
    if plan.host.iptables_nft:
        run_nft(plan.script)
        return
    if listed := plan.listed:
        run_nft(listed)
    with contextlib.closing(BatchSocket()) as opened:
        wanted = set(plan.tables)
        asleep = [each for each in tables(opened) if each.key in wanted]
        if len(asleep) < len(wanted):
            raise NfkeepError("somebody has deleted tables of nft that were just loaded: call it again")
        look()
        still.wake(opened, asleep)
        look()


def _with_members(table: NftTable) -> tuple[Declaration, ...]:
    return tuple(each for each in table.declarations if each.members is not None)


def _without_members(table: NftTable) -> tuple[Declaration, ...]:
    return tuple(each for each in table.declarations if each.members is None)


def _asleep(tables: Iterable[NftTable], *, anew: bool = True) -> str:
    """Everything but the elements that come from sets of ipset."""
    lines = (line for each in tables for line in table_lines(each, anew=anew, asleep=True, members=False))
    return "".join([f"{line}\n" for line in lines])


def _load(script: str) -> None:
    with Running(NFT, script) as loading:
        _loaded(loading)


def _loaded(loading: Running) -> None:
    try:
        loading.result()
    except NfkeepError as error:
        raise NfkeepError(f"this host's nft does not take the script: {error}") from error


def _only_members_differ(plan: Plan, fresh: Plan) -> bool:
    return [_rest(each) for each in plan.translations.values()] == [_rest(each) for each in fresh.translations.values()]


def _rest(translation: Translation) -> list[object]:
    """What `_load` loads; the chains are the same ones if they were not translated again."""
    return [
        (table.name, id(table.chains), [(each.kind, each.name, each.body) for each in table.declarations])
        for table in translation.tables
    ]


def _fill(plan: Plan) -> None:
    script = []
    with contextlib.closing(ElementSocket()) as socket:
        for family, translation in plan.translations.items():
            for table in translation.tables:
                for each in table.declarations:
                    if each.members is None:
                        continue
                    if each.members.plain is not None and not each.members.counted:
                        _fill_plain(socket, family, table.name, each.name, each.members.plain)
                    elif lines := list(each.members.lines()):
                        script += [f"add element {table.family} {table.name} {each.name} {{", *lines, "}"]
    if script:
        run_nft("\n".join([*script, ""]))


def _fill_plain(socket: ElementSocket, family: Family, table: str, name: str, plain: Plain) -> None:
    key_bytes = plain.key_bytes
    handle = SetHandle(socket, table, name, key_bytes, family.value)
    keys, timeouts = memoryview(plain.keys), plain.milliseconds()
    for at in range(0, len(timeouts), _AT_ONCE):
        some = keys[at * key_bytes : (at + _AT_ONCE) * key_bytes]
        if number := handle.change([ADD], some, timeouts[at : at + _AT_ONCE]):
            raise fail(number, f"filling the set {name}")
