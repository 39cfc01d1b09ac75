"""`-j SET`: add the packet to a set of ipset, or delete it (set_target_v3() in xt_set.c); here a set of nft's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.ipset_nft import FOR_EVER, declare, inside, ways
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.matches.set import known_set
from nfkeep.migrate.parts import Rows, Statement
from nfkeep.migrate.rates import duration

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.ipsets import IpSet
    from nfkeep.migrate.parts import Simple
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {
    "--add-set": 2, "--del-set": 2, "--map-set": 2, "--exist": 0, "--timeout": 1, "--map-mark": 0, "--map-prio": 0,
    "--map-queue": 0,
}  # fmt: skip


def translate(target: Extension, context: Context) -> Rows:
    """A rule for each kind of protocol: none keeps another one from being tried."""
    rows: list[tuple[Simple, ...]] = []
    for option in target.options:
        if option.name == "--map-set":
            raise Lost(
                "sets of nft have no skbmark, skbprio and skbqueue", "use a map: meta mark set ip saddr map @MARKS"
            )
        if option.name == "--add-set":
            rows += _rows(option, context, _adding(target, option, context))
        elif option.name == "--del-set":
            rows += _rows(option, context, "delete @{name} {{ {key} }}")
    return Rows(tuple(rows))


def _rows(option: Option, context: Context, statement: str) -> list[tuple[Simple, ...]]:
    ipset = _changeable(option, context)
    found = ways(ipset, option.values[1].split(","), context)
    if not found:
        return []
    name = declare(ipset, context)
    return [(*tests, *inside(ipset, key), Statement(statement.format(name=name, key=key))) for tests, key in found]


def _adding(target: Extension, option: Option, context: Context) -> str:
    ipset = _changeable(option, context)
    given = target.option("--timeout")
    if not ipset.has_timeouts:
        return "add @{name} {{ {key} }}"
    timeout = int(given.value if given else ipset.options["timeout"]) or FOR_EVER
    verb = "add" if target.option("--exist") is None else "update"
    return f"{verb} @{{name}} {{{{ {{key}} timeout {duration(timeout)} }}}}"


def _changeable(option: Option, context: Context) -> IpSet:
    ipset = known_set(option.values[0], context)
    if ipset.kind == "list:set" or "net" in ipset.fields or ipset.kind == "bitmap:ip,mac":
        raise Lost(
            f"nft cannot change sets like {ipset.name} ({ipset.kind}) from a rule", "use a set of addresses: hash:ip"
        )
    return ipset
