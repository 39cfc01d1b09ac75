"""Legacy tables as values: read one whole, and know which there are and where each hooks in."""

from __future__ import annotations

from types import MappingProxyType

import attrs

from nfkeep.errors import InvalidRuleError, PermissionDeniedError
from nfkeep.model import Chain, Family, Hook, Rule, Table
from nfkeep.xtables import text as _text  # noqa: F401  (gives the rules their text)
from nfkeep.xtables._ffi import Surroundings, TableHandle, read_image
from nfkeep.xtables.entry import INV_IN_INTERFACE, INV_OUT_INTERFACE, decode

__all__ = [
    "TABLES",
    "Surroundings",
    "TableHandle",
    "TableKind",
    "check_name",
    "check_place",
    "in_use",
    "read",
    "read_image",
]


@attrs.frozen(slots=True)
class TableKind:
    """A table that the kernel can have: its base chains' hooks and their priority (NF_IP_PRI_*)."""

    name: str
    priority: int
    hooks: tuple[Hook, ...]
    after_destination_nat: frozenset[Hook]


_ALL = tuple(Hook)
_PAST_ROUTING = frozenset({Hook.INPUT, Hook.FORWARD, Hook.POSTROUTING})

# include/uapi/linux/netfilter_ipv4.h; destination NAT sits at -100 on PREROUTING and OUTPUT.
TABLES: MappingProxyType[str, TableKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            TableKind("raw", -300, (Hook.PREROUTING, Hook.OUTPUT), frozenset()),
            TableKind("mangle", -150, _ALL, _PAST_ROUTING),
            TableKind("nat", -100, (Hook.PREROUTING, Hook.INPUT, Hook.OUTPUT, Hook.POSTROUTING), _PAST_ROUTING),
            TableKind("filter", 0, (Hook.INPUT, Hook.FORWARD, Hook.OUTPUT), _PAST_ROUTING | {Hook.OUTPUT}),
            TableKind("security", 50, (Hook.INPUT, Hook.FORWARD, Hook.OUTPUT), _PAST_ROUTING | {Hook.OUTPUT}),
        )
    }
)


def read(name: str, family: Family = Family.IPV4) -> Table:
    """The table `name` with all chains, rules and counters, as one consistent picture.

    Raises InvalidRuleError for a table that does not exist, PermissionDeniedError without CAP_NET_ADMIN,
    UnsupportedError on a kernel without legacy tables. Reading makes the kernel set the table up if it never was.
    """
    check_name(name)
    with TableHandle(name, family) as handle:
        return Table(name, family, MappingProxyType({chain: _chain(handle, chain) for chain in handle.chains()}))


def check_name(name: str) -> None:
    """Raise InvalidRuleError unless `name` can be a legacy table."""
    if name not in TABLES:
        raise InvalidRuleError(f"there is no table {name!r}; the legacy tables are {', '.join(TABLES)}")


def check_place(table: str, chain: str, rule: Rule) -> None:
    """Raise InvalidRuleError, in iptables' words, for a rule that the kernel takes there and that cannot work.

    As do_parse() in iptables/xshared.c: an interface that packets do not have yet or no longer, DROP in nat.
    """
    at = _INTERFACES6_AT if rule.family is _IPV6 else _INTERFACES4_AT
    if table != "nat" and rule.entry.startswith(_NO_INTERFACES, at):
        return
    entry = decode(rule)
    if chain in ("PREROUTING", "INPUT") and (any(entry.out_interface) or entry.inverted & INV_OUT_INTERFACE):
        raise InvalidRuleError(f"Can't use -o with {chain}", str(rule))
    if chain in ("OUTPUT", "POSTROUTING") and (any(entry.in_interface) or entry.inverted & INV_IN_INTERFACE):
        raise InvalidRuleError(f"Can't use -i with {chain}", str(rule))
    if table == "nat" and entry.verdict == "DROP":
        raise InvalidRuleError('The "nat" table is not intended for filtering, the use of DROP is inhibited', str(rule))


# From the first interface to the flags that invert, in struct ipt_ip and ip6t_ip6; without masks the rest is zero.
_INTERFACES4_AT, _INTERFACES6_AT = 16, 64
_NO_INTERFACES = bytes(64)
_IPV6 = Family.IPV6  # Python 3.11 takes a tenth of a microsecond to look a member up


def in_use(family: Family) -> tuple[str, ...]:
    """Tables that are set up in this network namespace; asking sets none up."""
    listing = "ip6_tables_names" if family is Family.IPV6 else "ip_tables_names"
    try:
        with open(f"/proc/thread-self/net/{listing}", encoding="ascii") as names:
            present = names.read().split()
    except FileNotFoundError:
        return ()
    except PermissionError:
        raise PermissionDeniedError(f"looking for {family} tables") from None
    return tuple(name for name in TABLES if name in present)


def _chain(handle: TableHandle, name: str) -> Chain:
    policy = handle.policy(name)
    rules = tuple(handle.rules(name))
    return Chain(name, rules) if policy is None else Chain(name, rules, policy[0], policy[1])
