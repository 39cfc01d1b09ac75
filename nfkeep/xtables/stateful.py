"""Which extensions keep state, which of it goes by a name, and which an opening packet would disturb.

The facts are those of docs/how-state-is-kept.md; here they are one table, so that a scan asks for each name once.
"""

from __future__ import annotations

from nfkeep.model import Family
from nfkeep.xtables import connlimit, hashlimit, limit, quota, recent, statistic
from nfkeep.xtables.entry import Entry, Extension

#: State in the rule itself: every replace resets it.
IN_RULE = frozenset({connlimit.NAME, limit.NAME, quota.NAME, statistic.NAME})

#: State that the kernel finds by name; it lives while any rule of that name does.
NAMED = frozenset({recent.NAME, hashlimit.NAME, "rateest", "RATEEST", "IDLETIMER"})

#: Any of these in a table makes a replace of it a matter of state.
KEEPING = tuple(sorted(IN_RULE | NAMED))

#: What else a packet that merely passes would leave a trace in, or send out of the host.
_TRACES = frozenset(
    {
        *("LOG", "NFLOG", "ULOG", "AUDIT", "TRACE", "NFQUEUE", "TEE", "SET", "CONNSECMARK", "LED"),
        *("SYNPROXY", "CLUSTERIP", "TPROXY", "nfacct"),
    }
)

#: Look at the conntrack state, so that an opening packet has to be NEW to get past them.
_ASK_STATE = frozenset({"conntrack", "state"})

_ADDRESS_BYTES = {Family.IPV4: 4, Family.IPV6: 16}

SCANNED = tuple(sorted(IN_RULE | NAMED | _TRACES | _ASK_STATE))


def extensions(entry: Entry) -> tuple[Extension, ...]:
    """A rule's matches and its target."""
    return entry.matches if entry.target is None else (*entry.matches, entry.target)


def is_target(extension: Extension) -> bool:
    """Whether it is a target: these have names in capitals, matches have none."""
    return extension.name.isupper()


def state_name(extension: Extension) -> str | None:
    """The name that a named state goes by; None for anything else."""
    if extension.name == recent.NAME:
        return recent.list_name(extension)
    if extension.name == hashlimit.NAME:
        return hashlimit.table_name(extension)
    if extension.name == "rateest":
        return _chars(extension.data[:16])
    if extension.name == "RATEEST":
        return _chars(extension.data[:16])
    if extension.name == "IDLETIMER":
        return _chars(extension.data[4:32])
    return None


def configuration(extension: Extension, family: Family) -> bytes | None:
    """What the kernel makes a named state with, whatever other rules of its name ask for later.

    None for a match that only looks an estimator up, and for what has no name. An estimator and a timer of another
    configuration make the kernel refuse the rule; the others just go on as they are.
    """
    if extension.name == recent.NAME:  # recent_mt_check() in net/netfilter/xt_recent.c
        return recent.mask(extension)[: _ADDRESS_BYTES[family]]
    if extension.name == hashlimit.NAME:
        return hashlimit.configuration(extension)
    if extension.name == "RATEEST":  # interval and ewma_log, struct xt_rateest_target_info
        return extension.data[16:18]
    if extension.name == "IDLETIMER":  # timer_type, struct idletimer_tg_info_v1
        return extension.data[33:34] if extension.revision else b"\0"
    return None


def renamed(extension: Extension, name: str) -> Extension:
    """A recent or hashlimit match with another list or table."""
    return recent.renamed(extension, name) if extension.name == recent.NAME else hashlimit.renamed(extension, name)


def disturbed_by_packets(extension: Extension) -> bool:
    """Whether a packet that meets this extension leaves a trace that it should not, connlimit aside."""
    if extension.name == recent.NAME:
        return recent.writes(extension)
    if extension.name == statistic.NAME:
        return statistic.every(extension) is not None
    return extension.name in _TRACES or extension.name in (
        *(limit.NAME, quota.NAME, hashlimit.NAME),
        *("RATEEST", "IDLETIMER"),
    )


def _chars(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode(errors="surrogateescape")
