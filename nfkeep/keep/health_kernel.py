"""The kernel self-test of `nfkeep doctor`: whether this kernel has what keeping counts takes.

Everything is tried in a network namespace of its own, which is gone afterwards with all that is in it.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs

from nfkeep.conntrack import Conntrack, Injector
from nfkeep.errors import NfkeepError, PermissionDeniedError
from nfkeep.keep.health_finding import Finding, Severity
from nfkeep.keep.selftest import Counting, probe_counting
from nfkeep.model import Family
from nfkeep.namespaces import Namespace
from nfkeep.nft.owned_table import OwnedTable
from nfkeep.nft.ruleset import Ruleset
from nfkeep.xtables.tables import TableHandle


@attrs.frozen(slots=True)
class Part:
    """Something that the kernel must have: in words, the options that it is built by, and its modules."""

    name: str
    options: tuple[str, ...]
    modules: tuple[str, ...]


def _tables(family: Family) -> Part:
    ip, tables = ("IP6", "ip6") if family is Family.IPV6 else ("IP", "ip")
    options = (f"{ip}_NF_IPTABLES", f"{ip}_NF_FILTER", f"{ip}_NF_MANGLE")
    return Part(f"legacy {family} tables", options, (f"{tables}table_filter", f"{tables}table_mangle"))


TABLES = {family: _tables(family) for family in Family}
CTNETLINK = Part("ctnetlink", ("NF_CONNTRACK", "NF_CT_NETLINK"), ("nf_conntrack", "nf_conntrack_netlink"))
OWNED = Part("nftables with owned tables (Linux 5.12)", ("NF_TABLES", "NF_TABLES_INET"), ("nf_tables",))
REDIRECT = Part(
    "TAP devices with a tc redirect",
    ("TUN", "NET_SCH_INGRESS", "NET_CLS_U32", "NET_ACT_MIRRED"),
    ("tun", "sch_ingress", "cls_u32", "act_mirred"),
)
LEGACY_OPTIONS = ("NETFILTER_XTABLES_LEGACY", "IP_NF_IPTABLES_LEGACY", "IP6_NF_IPTABLES_LEGACY")


@attrs.frozen(slots=True)
class Kernel:
    """What the self-test found.

    `tested`: false where no namespace could be made. `counting`: for each family that has legacy tables, how connlimit
    is made to count live flows again; empty if not tested. `missing`: parts, and what the kernel said. `options`: what
    the kernel was built with ("y", "m", "n"), None where its configuration cannot be read.
    """

    release: str = ""
    tested: bool = True
    counting: Mapping[Family, Counting] = attrs.field(factory=dict)
    missing: Mapping[Part, str] = attrs.field(factory=dict)
    options: Mapping[str, str] | None = None


def self_test() -> Kernel:
    """Try everything, once."""
    release, options = os.uname().release, read_options(os.uname().release)
    families = [family for family in Family if _has_tables(family)]
    missing: dict[Part, str] = {}
    tested: list[bool] = []
    # A thread of its own: whatever goes wrong, the caller's thread stays in its namespace.
    thread = threading.Thread(target=lambda: tested.append(_try_all(families, missing)), name="nfkeep-doctor")
    thread.start()
    thread.join()
    if tested != [True]:
        return Kernel(release, False, options=options)
    counting = {family: probe_counting(family) for family in families if TABLES[family] not in missing}
    return Kernel(release, True, counting, missing, options)


def kernel(found: Kernel, *, needed: bool) -> Iterator[Finding]:
    """What the self-test means; `needed`: there is a connection limit whose count must be kept."""
    if not found.tested:
        what = f"kernel {found.release}: not tested, as no network namespace can be made here"
        why = "that takes CAP_SYS_ADMIN; nfkeep then goes the way that works on all kernels known"
        yield Finding(Severity.WARN, what, why, "nfkeep doctor   # on the host itself, outside of the container")
        return
    for part, reason in found.missing.items():
        what = f"kernel {found.release}: no {part.name} ({reason})"
        why = "without it the connections of a connlimit rule cannot be counted again after a change"
        yield Finding(Severity.BAD if needed else Severity.WARN, what, why, _remedy(part, found.options))
    if not found.missing:
        parts = ", ".join(part.name for part in (CTNETLINK, OWNED, REDIRECT))
        yield Finding(Severity.OK, f"kernel {found.release}: {parts}: all there")
    for way in Counting:
        families = " and ".join(str(family) for family, each in found.counting.items() if each is way)
        if families and way is not Counting.NEITHER:
            yield Finding(Severity.OK, f"self-test: connlimit counts live {families} flows again {_WAYS[way]}")
        elif families and not found.missing:
            what = f"self-test: nothing makes connlimit count live {families} flows again on this kernel"
            why = "every change of a table forgets the connections of the connlimit rules in it, with nfkeep too"
            fix = "nfkeep doctor   # under another kernel; until then keep connlimit in a table that nobody edits"
            yield Finding(Severity.BAD, what, why, fix)
    built = [option for option in LEGACY_OPTIONS if (found.options or {}).get(option) in ("y", "m")]
    if built:
        what = f"legacy tables are here by CONFIG_{built[0]}, which is off by default since Linux 6.17"
        yield Finding(Severity.OK, what)


def read_options(release: str) -> dict[str, str] | None:
    """What a running kernel was built with, of all that is asked for here."""
    for path in ("/proc/config.gz", f"/boot/config-{release}", f"/lib/modules/{release}/config"):
        with contextlib.suppress(OSError):
            data = Path(path).read_bytes()
            return _options((gzip.decompress(data) if path.endswith(".gz") else data).decode())
    return None


_WAYS = {
    Counting.PRIME: "when their opening packets are sent once more",
    Counting.RECREATE: "when their conntrack entries are made anew and their opening packets sent once more",
}
_WANTED = {o for part in (*TABLES.values(), CTNETLINK, OWNED, REDIRECT) for o in part.options} | {*LEGACY_OPTIONS}


def _options(text: str) -> dict[str, str]:
    found = dict.fromkeys(_WANTED - set(LEGACY_OPTIONS), "n")
    for line in text.splitlines():
        name, _, value = line.removeprefix("CONFIG_").partition("=")
        if name in _WANTED:
            found[name] = value
    return found


def _has_tables(family: Family) -> bool:
    listing = "ip6_tables_names" if family is Family.IPV6 else "ip_tables_names"
    return os.path.exists(f"/proc/thread-self/net/{listing}")


def _try_all(families: list[Family], missing: dict[Part, str]) -> bool:
    """Whether it could be tried; adds what is missing."""
    try:
        namespace = Namespace()
    except (PermissionDeniedError, OSError):
        return False
    try:
        with namespace:
            tries = [(TABLES[family], _opens_tables(family)) for family in families]
            for part, attempt in (*tries, (CTNETLINK, _opens_conntrack), (OWNED, _owns), (REDIRECT, _redirects)):
                try:
                    attempt()
                except (NfkeepError, OSError) as error:
                    missing[part] = str(error)
    finally:
        namespace.close()
    return True


def _opens_tables(family: Family) -> Callable[[], None]:
    def attempt() -> None:
        for name in ("filter", "mangle"):
            TableHandle(name, family).close()

    return attempt


def _opens_conntrack() -> None:
    with Conntrack() as conntrack:
        conntrack.count(Family.IPV4, ())


def _owns() -> None:
    OwnedTable(Ruleset((), (), ())).close()


def _redirects() -> None:
    with Injector() as injector:
        injector.prepare([1])  # the loopback, which is always the first


def _remedy(part: Part, options: Mapping[str, str] | None) -> str:
    off = [option for option in part.options if options is not None and options.get(option) == "n"]
    if off:
        return f"boot a kernel with {', '.join(f'CONFIG_{option}' for option in off)}   # this one is built without"
    return f"modprobe -a {' '.join(part.modules)}   # or a kernel with {', '.join(f'CONFIG_{o}' for o in part.options)}"
