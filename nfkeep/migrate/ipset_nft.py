"""A set of ipset as a set of nft: its type, its elements, and the keys that a packet is looked up by.

What a packet is compared with is in the `_kadt` functions of the kernel's ip_set_*.c, and in ip_set_getport.c.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate import names
from nfkeep.migrate.ipset_fields import ICMP, WITH_PORTS, address_text, addresses, networks, ports, range_text
from nfkeep.migrate.ipset_members import Entry, Members
from nfkeep.migrate.ipset_nets import Network, pieces, segments
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import Test
from nfkeep.migrate.rates import duration
from nfkeep.migrate.values import ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nfkeep.migrate.context import Context, Declaration
    from nfkeep.migrate.ipsets import Element, IpSet
    from nfkeep.migrate.parts import Simple

TYPES = frozenset(
    """bitmap:ip bitmap:ip,mac bitmap:port hash:ip hash:mac hash:ip,mac hash:net hash:net,net hash:ip,port hash:net,port
    hash:ip,port,ip hash:ip,port,net hash:net,port,net hash:ip,mark hash:net,iface""".split()  # noqa: SIM905
)
_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
_NOBODY = "0.0.0.0"
"""What ipset takes for no address."""

_DEFAULT_SIZE = 65536
_OF_MEMORY = frozenset({"hashsize", "bucketsize", "initval"})
FOR_EVER = 100 * 365 * 86400
"""Seconds that stand for "for ever" in a set whose elements may get another timeout: nft changes none that is not."""


def declare(ipset: IpSet, context: Context, *, nomatch: bool = False) -> str:
    """Have the set in the table, with `nomatch` that of its exceptions only; its name there."""
    name = f"{ipset.name}-nomatch" if nomatch else ipset.name
    changing = changes(ipset, context)
    made = context.survey.once(("set", name), lambda: written(ipset, nomatch=nomatch, changing=changing))
    known = context.objects.known(name)
    found = context.objects.declare("set", name, *made)
    if not known:
        _admit(ipset, context)
    return found


def written(ipset: IpSet, *, nomatch: bool, changing: bool) -> tuple[tuple[str, ...], Members]:
    """What a set's declaration says, and its elements. `changing`: rules add to it, or delete from it.

    Raises Lost for elements that nft cannot have.
    """
    listed = () if ipset.plain else tuple(entries(ipset, nomatch=nomatch))
    flags = [flag for flag, on in (
        ("dynamic", changing), ("interval", "net" in ipset.fields), ("timeout", ipset.has_timeouts),
    ) if on]  # fmt: skip
    body = [f"type {_type(ipset)}"]
    if "net" not in ipset.fields:
        body.append(f"size {_size(ipset)}")
    if flags:
        body.append(f"flags {','.join(flags)}")
    default = int(ipset.options.get("timeout", "0"))
    if default and not changing and (ipset.plain.expire if ipset.plain else all(entry.timeout for entry in listed)):
        body.append(f"timeout {duration(default)}")
    counted = "counters" in ipset.options
    if counted:
        body.append("counter")
    otherwise = FOR_EVER if changing and ipset.has_timeouts else 0
    plain = attrs.evolve(ipset.plain, otherwise=otherwise) if ipset.plain and otherwise else ipset.plain
    if otherwise:
        listed = tuple(attrs.evolve(entry, timeout=entry.timeout or otherwise) for entry in listed)
    return tuple(body), Members(ipset.name, nomatch, changing, counted, listed, plain)


def written_again(declaration: Declaration, ipsets: Mapping[str, IpSet]) -> Declaration:
    """The same declaration, with the elements that the set of ipset has now. Raises Lost as `written` does."""
    members = declaration.members
    if members is None:
        return declaration
    body, now = written(ipsets[members.ipset], nomatch=members.nomatch, changing=members.changing)
    return attrs.evolve(declaration, body=body, members=now)


def outline(ipset: IpSet) -> tuple[object, ...]:
    """What of a set decides what becomes of the rules that look into it."""
    options = {name: value for name, value in ipset.options.items() if name not in _OF_MEMORY}
    kinds = _kinds_of(ipset) if "port" in ipset.fields and ipset.kind != "bitmap:port" else ()
    expires = ipset.kind == "list:set" and any(element.timeout for element in ipset.elements)
    return ipset.kind, options, ipset.members, kinds, expires, _marks(ipset)


def _marks(ipset: IpSet) -> bool:
    return any({"skbmark", "skbprio", "skbqueue"} & element.options.keys() for element in ipset.elements)


def changes(ipset: IpSet, context: Context) -> bool:
    """Whether a rule adds to it or deletes from it."""
    return ipset.name in _named(context, "--add-set", "--del-set")


def _named(context: Context, *wanted: str) -> frozenset[str]:
    """The sets that targets SET name with these options."""
    targets = context.survey.targets("SET")
    return context.survey.once(
        ("SET", *wanted),
        lambda: frozenset(option.values[0] for each in targets for option in each.options if option.name in wanted),
    )


def ways(ipset: IpSet, sides: Sequence[str], context: Context) -> list[tuple[tuple[Simple, ...], str]]:
    """Tests, and the key of a packet that passes them: one way for each kind of protocol that the set has.

    None if the kernel never finds anything in it: too few directions, or the set of another family.
    """
    if len(sides) < len(ipset.fields) or (ipset.has_addresses and ipset.v6 != context.v6):
        return []
    if "port" not in ipset.fields:
        return [((), " . ".join(_key(ipset, sides, context, "")))]
    kinds = _kinds(ipset, context)
    found: list[tuple[tuple[Simple, ...], str]] = []
    left = "meta l4proto"
    for kind, test in (
        ("ports", Test(left, WITH_PORTS)),
        ("icmp", Test(left, ICMP)),
        ("other", Test(left, (*WITH_PORTS, *ICMP), negated=True)),
    ):
        if kind in kinds:
            needed = len(kinds) > 1 or ipset.kind == "bitmap:port"
            found.append(((test,) if needed else (), " . ".join(_key(ipset, sides, context, kind))))
    return found


def inside(ipset: IpSet, key: str) -> tuple[Simple, ...]:
    """The test that a bitmap has a place for a packet's key."""
    limits = ipset.options.get("range")
    if not ipset.kind.startswith("bitmap:") or limits is None:
        return ()
    if ipset.kind == "bitmap:port":
        return (Test(key, (limits,)),)
    within = networks(limits, v6=False)
    return (Test(key.partition(" . ")[0], (range_text(within[0][0], within[-1][1], v6=False),)),)


def _kinds(ipset: IpSet, context: Context) -> frozenset[str]:
    if ipset.kind == "bitmap:port":
        return frozenset({"ports"})
    if changes(ipset, context):
        return frozenset({"ports", "icmp", "other"})
    return context.survey.once(("kinds", ipset.name), lambda: _kinds_of(ipset))


def _kinds_of(ipset: IpSet) -> frozenset[str]:
    at = ipset.fields.index("port")
    protocols = {protocol for element in ipset.elements for protocol, _ in ports(element.parts[at])}
    kinds = ("ports" if each in WITH_PORTS else "icmp" if each in ICMP else "other" for each in protocols)
    return frozenset(kinds) or frozenset({"ports"})


def _key(ipset: IpSet, sides: Sequence[str], context: Context, kind: str) -> Iterator[str]:
    for field, side in zip(ipset.fields, sides, strict=False):
        if field in ("ip", "net"):
            mask = _mask(ipset)
            whole = mask == (1 << (128 if ipset.v6 else 32)) - 1
            address = f"{context.ip} {'saddr' if side == 'src' else 'daddr'}"
            yield address if whole else f"{address} & {address_text(mask, v6=ipset.v6)}"
        elif field == "port":
            port = "th sport" if side == "src" or kind == "icmp" else "th dport"
            number = f"{port} & 0" if kind == "other" else port
            yield number if ipset.kind == "bitmap:port" else f"meta l4proto . {number}"
        elif field == "mac":
            yield f"ether {'saddr' if side == 'src' else 'daddr'}"
        elif field == "mark":
            bits = ipset.options.get("markmask", "")
            yield f"meta mark & {int(bits, 0):#x}" if bits else "meta mark"
        else:
            yield "iifname" if side == "src" else "oifname"


def _mask(ipset: IpSet) -> int:
    bits = 128 if ipset.v6 else 32
    if "bitmask" in ipset.options:
        return int(ipaddress.ip_address(ipset.options["bitmask"]))
    length = int(ipset.options.get("netmask", bits))
    return (1 << bits) - (1 << (bits - length))


def _type(ipset: IpSet) -> str:
    address = "ipv6_addr" if ipset.v6 else "ipv4_addr"
    port = "inet_service" if ipset.kind == "bitmap:port" else "inet_proto . inet_service"
    kinds = {"ip": address, "net": address, "port": port, "mac": "ether_addr", "mark": "mark", "iface": "ifname"}
    return " . ".join(kinds[field] for field in ipset.fields)


def _size(ipset: IpSet) -> int:
    if ipset.kind.startswith("bitmap:"):
        return _DEFAULT_SIZE
    return int(ipset.options.get("maxelem", _DEFAULT_SIZE))


def entries(ipset: IpSet, *, nomatch: bool) -> Iterator[Entry]:
    """Its elements for nft, with `nomatch` the exceptions only. Raises Lost for a set that nft cannot have."""
    _check(ipset)
    if "iface" in ipset.fields:
        yield from _entries_with_interfaces(ipset, nomatch=nomatch)
        return
    groups: dict[tuple[str, ...], list[tuple[list[tuple[int, int, int]], Element]]] = {}
    fields, plain = ipset.fields, ipset.kind == "hash:ip" and not {"netmask", "bitmask"} & ipset.options.keys()
    for element in ipset.elements:
        address = element.parts[0]
        if plain and ADDRESS.fullmatch(address) and address != _NOBODY and len(element.parts) == 1:  # often
            groups[element.parts] = [([], element)]
            continue
        if len(element.parts) != len(fields):
            raise Lost(f"the element {','.join(element.parts)} takes what is missing from the first packet")
        parts = list(zip(fields, element.parts, strict=True))
        exact = [_exact(ipset, field, part, element) for field, part in parts if field != "net"]
        nets = [networks(part, v6=ipset.v6) for field, part in parts if field == "net"]
        for values in itertools.product(*exact):
            for combination in itertools.product(*nets):
                groups.setdefault(values, []).append((list(combination), element))
    for values, members in groups.items():
        if "net" not in fields:
            element = members[-1][1]
            yield Entry(values, element.timeout, element)
            continue
        for ranges, timeout, same in _apart(members, nomatch=nomatch):
            following, texts = iter(values), iter(range_text(*each, v6=ipset.v6) for each in ranges)
            columns = tuple(next(texts) if field == "net" else next(following) for field in fields)
            yield Entry(columns, timeout, same)


def _entries_with_interfaces(ipset: IpSet, *, nomatch: bool) -> Iterator[Entry]:
    """The longest prefix around an address decides, even if it has other interfaces (`multi` in ip_set_hash_gen.h)."""
    found = [
        Network(first, last, (length,), element)
        for element in ipset.elements
        for first, last, length in networks(element.parts[0], v6=ipset.v6)
    ]
    for covering, first, last in segments(found):
        longest = max(each.lengths for each in covering)
        if any(each.element.timeout for each in covering) and min(each.lengths for each in covering) < longest:
            raise Lost("networks within each other that expire change with time")
        for each in covering:
            if each.lengths == longest and each.element.nomatch == nomatch:
                whole = (each.first, each.last) == (first, last)
                (interface,) = _exact(ipset, "iface", each.element.parts[1], each.element)
                columns = (range_text(first, last, v6=ipset.v6), interface)
                yield Entry(columns, each.element.timeout, each.element if whole else None)


def _apart(
    members: Sequence[tuple[list[tuple[int, int, int]], Element]], *, nomatch: bool
) -> Iterator[tuple[tuple[tuple[int, int], ...], int, Element | None]]:
    """The networks of one group as ranges that are apart, in one dimension or two."""
    outer = []
    for nets, element in members:
        lengths = tuple(length for _, _, length in nets)
        inner = Network(*nets[-1][:2], lengths, element)
        outer.append(inner if len(nets) == 1 else Network(*nets[0][:2], lengths, element, inner))
    if outer[0].inner is None:
        for piece in pieces(outer, nomatch=nomatch):
            yield ((piece.first, piece.last),), piece.timeout, piece.element
        return
    for covering, first, last in segments(outer):
        for piece in pieces([each.inner for each in covering if each.inner is not None], nomatch=nomatch):
            whole = all((each.first, each.last) == (first, last) for each in covering)
            yield ((first, last), (piece.first, piece.last)), piece.timeout, piece.element if whole else None


def _exact(ipset: IpSet, field: str, part: str, element: Element) -> list[str]:
    if field == "ip":
        found = addresses(part, v6=ipset.v6, mask=_mask(ipset))
        return [address_text(number, v6=ipset.v6) for number in found if number or ipset.kind.startswith("bitmap:")]
    if field == "port":
        if ipset.kind == "bitmap:port":
            return [str(port) for _, port in ports(part)]
        return [f"{protocol} . {port}" for protocol, port in ports(part)]
    if field == "mac":
        if not _MAC.fullmatch(part):
            raise Lost(f"{part!r} is no MAC address")
        return [part.lower()]
    if field == "mark":
        return [f"{int(part, 0):#x}"]
    return [names.interface(part + ("+" if "wildcard" in element.options else ""))]


def _check(ipset: IpSet) -> None:
    if not ipset.kind:
        raise Lost(f"the set {ipset.name} has elements, but no create line", "give all that ipset save prints")
    if ipset.kind not in TYPES:
        raise Lost(f"nothing is known of sets of the type {ipset.kind}")
    if "net" in ipset.fields and {"netmask", "bitmask"} & ipset.options.keys():
        raise Lost("networks with a netmask or a bitmask of the set are not covered")
    if "iface" in ipset.fields:
        found = {(element.parts[-1], "wildcard" in element.options) for element in ipset.elements}
        if any(text.startswith("physdev:") for text, _ in found):
            raise Lost("nft knows a bridge's ports in tables of the family bridge only")
        if any(wild and text != other and other.startswith(text) for text, wild in found for other, _ in found):
            raise Lost("interfaces that lie within each other cannot be in one set of nft")


def _admit(ipset: IpSet, context: Context) -> None:
    what = f"set {ipset.name}"
    if _marks(ipset):
        context.approximate(what, "its elements' skbmark, skbprio and skbqueue have no place in a set of nft")
    if "counters" in ipset.options and "net" in ipset.fields:
        context.approximate(
            what, "networks within each other are ranges of their own in nft, with counters from zero on"
        )
    if "forceadd" in ipset.options and changes(ipset, context):
        context.approximate(what, "when it is full it takes nothing more; ipset forgets another element (forceadd)")
    if ipset.name in _named(context, "--del-set"):
        reason = "what a rule deletes takes up room a second more, and may not be added more than ten times in it"
        context.approximate(what, reason)
    if "port" in ipset.fields and ipset.kind != "bitmap:port" and "other" in _kinds(ipset, context):
        context.approximate(what, "later fragments of protocols without ports are not found in it")
