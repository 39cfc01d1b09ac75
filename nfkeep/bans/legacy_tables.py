"""Changes to the legacy tables that ban lists have rules in: look, decide and replace, all in one transaction.

All of it concerns the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
import os
import textwrap
from collections.abc import Callable

from nfkeep.errors import CommitError, ConflictError, InvalidRuleError, UnsupportedError
from nfkeep.keep.transaction import Transaction
from nfkeep.model import Family, Rule
from nfkeep.xtables.entry import decode
from nfkeep.xtables.tables import TableHandle

HOME = "mangle"
"""The table of lists that drop or count; few programs edit it. It has the allow list, with or without any ban list."""
TABLES = (HOME, "filter")
SHARED_CHAIN = "nfkeep"

_TRIES = 20
_LONGEST_COMMENT = 255  # XT_MAX_COMMENT_LEN (linux/netfilter/xt_comment.h), without its NUL


def change(table: str, family: Family, edit: Callable[[Transaction, TableHandle], None], *, hold: bool = True) -> None:
    """One transaction; `edit` finds the table as it is, under the lock, in the handle that it gets.

    A program that ignores the lock may come in between: then all is read and decided anew; ConflictError after many
    times. If it comes between our rules and the counters that follow them, the table's counters are lost, as by any
    iptables. Raises what Transaction does.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            with Transaction(table, family, hold=hold) as tx, TableHandle(table, family) as now:
                edit(tx, now)
            return
        except ConflictError:
            if not tries_left:
                raise
        except CommitError as error:
            # the counters were for a table with another number of rules (do_add_counters() in ip_tables.c)
            if not (error.applied and error.errno in (errno.EAGAIN, errno.EINVAL) and tries_left):
                raise


def usable(table: str, family: Family) -> bool:
    """Whether the table is there, or can be; False for IPv6 on a host without it, else UnsupportedError."""
    try:
        require(table, family)
    except UnsupportedError:
        if has_addresses(family):
            raise
        return False
    return True


def require(table: str, family: Family) -> None:
    """Raise UnsupportedError unless the table is there, or can be; this sets it up."""
    try:
        TableHandle(table, family).close()
    except (UnsupportedError, InvalidRuleError) as error:
        module = f"{'ip6' if family is Family.IPV6 else 'ip'}table_{table}"
        raise UnsupportedError(
            f"the {family} table {table} is not to be had on this host ({error}): load the kernel module {module}",
            feature=module,
        ) from None


def has_addresses(family: Family) -> bool:
    """Whether this host speaks the family at all."""
    return family is Family.IPV4 or os.path.exists("/proc/thread-self/net/if_inet6")


def rules_of(handle: TableHandle, chain: str) -> list[Rule]:
    """The rules of a chain; none where it isn't there."""
    return list(handle.rules(chain)) if handle.has_chain(chain) else []


def jump_to(chain: str, family: Family) -> Rule:
    """The rule that sends every packet to a chain."""
    return Rule.parse(f"-j {chain}", family)


def with_comment(text: str) -> str:
    """How a rule says a text, of words without quotes, however long; `comment_of` reads it."""
    parts = textwrap.wrap(text, _LONGEST_COMMENT, break_long_words=False, break_on_hyphens=False)
    return " ".join(f'-m comment --comment "{part}"' for part in parts)


def comment_of(rule: Rule) -> str:
    """What a rule's comments say; "" without one."""
    texts = (match.data.split(b"\0")[0] for match in decode(rule).matches if match.name == "comment")
    return b" ".join(texts).decode(errors="replace")


def delete_unless_used(tx: Transaction, chain: str) -> None:
    """Delete an empty chain, unless a rule of somebody else jumps to it."""
    try:
        tx.delete_chain(chain)
    except InvalidRuleError:
        pass
