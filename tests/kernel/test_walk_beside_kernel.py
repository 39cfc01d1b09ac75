"""The walker beside the kernel: random tables and packets; each packet is walked, then sent, and counters compared.

What the walk is certain of must be exactly what the kernel's counters show. Where it is in doubt the counters must be
among the ways it has found; and what they tell must settle it.
"""

from __future__ import annotations

import fcntl
import functools
import os
import random
import socket
import struct
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import pytest
from ctnetlink import Entry, make_entry
from probes import ACK, ALL_STATUS, DST_NAT, ESTABLISHED, NEW, SRC_NAT, SYN, TCP, UDP, Probe
from rounds import rounds

from nfkeep.model import Family, Hook
from nfkeep.namespaces import Namespace, sysctl
from nfkeep.testing.polling import wait_until
from nfkeep.testing.topology import batch
from nfkeep.xtables._ffi import read_image
from nfkeep.xtables.image import Image
from nfkeep.xtables.tables import TABLES
from nfkeep.xtables.walk import Walk, Walked

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel

Rises: TypeAlias = "dict[str, list[tuple[int, int]]]"

EXAMPLES = int(os.environ.get("NFKEEP_WALK_EXAMPLES") or max(20, rounds(60)))  # fewer have too few in doubt
SEED = int(os.environ.get("NFKEEP_WALK_SEED", "0"))  # of the first example; the others count on from it
PACKETS = 12  # of each example

WALKED = ("raw", "mangle", "filter", "security")
HERE = {Family.IPV4: "10.1.0.1", Family.IPV6: "fd01::1"}
OUTSIDE = {Family.IPV4: ("10.1.0.2", "10.1.0.130"), Family.IPV6: ("fd01::2", "fd01::8000:0:0:2")}
INSIDE = {Family.IPV4: ("10.2.0.2", "10.2.0.130"), Family.IPV6: ("fd02::2", "fd02::8000:0:0:2")}
ELSEWHERE = {Family.IPV4: ("10.9.9.9",), Family.IPV6: ("fd09::9",)}
CONFIRMED, SEEN_REPLY, ASSURED = 1 << 3, 1 << 1, 1 << 2
NAT_DONE = 1 << 7 | 1 << 8


@attrs.frozen
class Host:
    """A namespace with two interfaces, behind which the test itself is, and a sink behind every table."""

    namespace: Namespace
    outside: int
    raw: dict[Family, socket.socket]

    def send(self, probe: Probe) -> None:
        """Have the packet enter, from outside or from here."""
        packet = probe.packet()
        if probe.from_here:
            to: Any = (probe.destination, 0) if probe.family is Family.IPV4 else (probe.destination, 0, 0, 0)
            try:
                self.raw[probe.family].sendto(packet, to)
            except PermissionError:
                pass  # dropped by a rule
        else:
            kind = b"\x08\x00" if probe.family is Family.IPV4 else b"\x86\xdd"
            os.write(self.outside, MAC + b"\x02\0\0\0\0\x02" + kind + packet)

    def images(self, family: Family) -> dict[str, Image]:
        """All tables as they are."""
        with self.namespace:
            return {name: read_image(name, family) for name in WALKED}


MAC = b"\x02\0\0\0\0\x01"
TUNSETIFF, IFF_TAP_NO_PI = 0x400454CA, 0x1002


def sink_port(watched: str, hook: Hook) -> int:
    """Packets from this port, and the 999 behind it, are dropped behind this table at this hook."""
    return 20000 + 5000 * WALKED.index(watched) + 1000 * hook


def sinks() -> str:
    """The nft table: sinks, no answers, and what makes the kernel track and translate."""
    chains = [
        "chain hush { type filter hook output priority -401; tcp flags & rst == rst drop;"
        " meta l4proto { icmp, icmpv6, igmp } drop; }",
        "chain track { type filter hook prerouting priority -1; ct state new; }",
        *(f"chain nat{hook} {{ type nat hook {hook} priority {priority}; }}" for hook, priority in (
            ("prerouting", -100), ("output", -100), ("input", 100), ("postrouting", 100))),
    ]  # fmt: skip
    for name in WALKED:
        for hook in TABLES[name].hooks:
            first, priority = sink_port(name, hook), TABLES[name].priority + 1
            chains.append(
                f"chain {name}_{hook.name.lower()} {{ type filter hook {hook.name.lower()} priority {priority};"
                f" meta l4proto {{ tcp, udp }} th sport {first}-{first + 999} drop; }}"
            )
    return "table inet sinks {\n" + "\n".join(chains) + "\n}\n"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """One for all examples."""
    namespace = Namespace()
    taps = []
    try:
        for name in ("ext0", "int0"):
            with namespace:
                tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
                taps.append(tap)
                fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP_NO_PI))
        for scope in ("all", "default", "ext0"):
            sysctl(namespace, f"net.ipv4.conf.{scope}.rp_filter", 0)
            sysctl(namespace, f"net.ipv6.conf.{scope}.forwarding", 1)
        sysctl(namespace, "net.ipv4.ip_forward", 1)
        batch(namespace, [
            "link set ext0 address 02:00:00:00:00:01 up", "link set int0 up",
            "address add 10.1.0.1/24 dev ext0", "address add 10.2.0.1/24 dev int0",
            "address add fd01::1/64 dev ext0 nodad", "address add fd02::1/64 dev int0 nodad",
            "route add 10.9.9.0/24 dev int0", "route add fd09::/64 dev int0",
        ])  # fmt: skip
        namespace.run(["nft", "-f", "-"], input=sinks())
        with namespace:
            raw = {family: socket.socket(family.value, socket.SOCK_RAW, socket.IPPROTO_RAW) for family in Family}
        raw[Family.IPV6].setsockopt(socket.IPPROTO_IPV6, 36, 1)  # IPV6_HDRINCL
        yield Host(namespace, taps[0], raw)
        for each in raw.values():
            each.close()
    finally:
        for tap in taps:
            os.close(tap)
        namespace.close()


def chance(rng: random.Random, *options: str) -> str:
    """One of them, mostly none."""
    return rng.choice(options) if rng.random() < 0.2 else ""


@functools.cache
def addresses(family: Family) -> tuple[str, ...]:
    """Networks that some packets are in, and some are not."""
    hosts = [HERE[family], *OUTSIDE[family], *INSIDE[family], *ELSEWHERE[family]]
    lengths = (0, 16, 24, 25, 32) if family is Family.IPV4 else (0, 32, 64, 65, 128)
    return tuple(f"{host}/{length}" for host in hosts for length in lengths)


def hop_matches(family: Family) -> list[str]:
    name = "ttl" if family is Family.IPV4 else "hl"
    return [f"-m {name} --{name}{how} {n}" for how in ("-eq", "-lt", "-gt") for n in (2, 62, 63, 64, 65, 100)]


def ranges(family: Family) -> list[str]:
    low, high = OUTSIDE[family]
    inside, top = INSIDE[family]
    spans = (f"{HERE[family]}-{low}", f"{low}-{high}", f"{inside}-{top}", f"{high}-{inside}")
    return [f"-m iprange {no}--{side}-range {span}" for side in ("src", "dst") for no in ("", "! ") for span in spans]


STATES = ("NEW", "ESTABLISHED", "RELATED,ESTABLISHED", "INVALID", "UNTRACKED", "NEW,INVALID", "RELATED")
PORTS = ("20000:29999", "30000:34999", "25000:39999", "20000:39999", "35002", "25001", "25003", "21000:23000")
OF_TCP = (
    *(f"-m tcp --sport {p}" for p in PORTS), "-m tcp ! --sport 25000:29999", "-m tcp --dport 873",
    "-m tcp --dport 1:900", "-m tcp ! --dport 80", "--syn", "! --syn", "-m tcp --tcp-flags SYN,ACK SYN",
    "-m tcp --tcp-flags ALL SYN,ACK",
    "-m tcp --tcp-option 2", "-m tcp ! --tcp-option 2", "-m tcpmss --mss 500:600", "-m tcpmss ! --mss 1:535",
)  # fmt: skip
OF_UDP = (*(f"-m udp --sport {p}" for p in PORTS), "-m udp --dport 873", "-m udp ! --dport 1:900")
OF_BOTH = (
    "-m multiport --dports 80,873", "-m multiport ! --dports 1:100,873",
    "-m multiport --sports 20000:24999,30000:39999",
    "-m multiport --ports 873,25003", "-m multiport ! --ports 80,81,82", "",
)  # fmt: skip
MARKS = ("1", "2", "0x3/0x3", "0/0xff", "0x10/0x10")


@functools.cache
def matches(family: Family) -> tuple[str, ...]:
    """Matches without conditions on the protocol or the hook."""
    where = addresses(family)
    own = [
        *(f"-m state --state {state}" for state in STATES),
        *(f"-m conntrack {no}--ctstate {state}" for no in ("", "! ")
          for state in (*STATES, "SNAT", "DNAT", "SNAT,NEW")),
        *(f"-m conntrack {no}--ctstatus {s}" for no in ("", "! ")
          for s in ("NONE", "SEEN_REPLY", "ASSURED", "CONFIRMED", "EXPECTED")),
        *(f"-m conntrack --ctdir {way}" for way in ("ORIGINAL", "REPLY")),
        *(f"-m conntrack {no}--ct{end} {a}" for end in ("origsrc", "origdst", "replsrc", "repldst")
          for no in ("", "! ") for a in where[:12]),
        "-m conntrack --ctorigdstport 873", "-m conntrack --ctreplsrcport 800:900",
        "-m conntrack ! --ctorigsrcport 1:9",
        "-m conntrack --ctproto tcp", "-m conntrack ! --ctproto 6",
        *(f"-m {kind} {no}--mark {mark}" for kind in ("mark", "connmark") for no in ("", "! ") for mark in MARKS),
        *ranges(family), *hop_matches(family),
        *(f"-m length {no}--length {span}" for no in ("", "! ") for span in ("36", "40", "44", "37:59", "60:64")),
        *(f"-m tos {no}--tos {tos}" for no in ("", "! ") for tos in ("0x10/0xff", "0/0x3f", "0x08/0x08")),
        *(f"-m dscp {no}--dscp {n}" for no in ("", "! ") for n in (0, 4, 46)),
        "-m comment --comment it-is-so",
        "-m statistic --mode random --probability 0.5", "-m limit --limit 5/s --limit-burst 9",
        "-m pkttype --pkt-type host",
        "-m recent --name walked --set", "-m recent --name walked --rcheck",
    ]  # fmt: skip
    if family is Family.IPV4:
        own += [f"-m addrtype {no}--{side}-type {kind}" for no in ("", "! ") for side in ("src", "dst")
                for kind in ("LOCAL", "UNICAST", "UNICAST,LOCAL")]  # fmt: skip
    return tuple(own)


def targets(table: str, family: Family, below: list[str]) -> list[str]:
    """Any, with jumps to the chains `below`."""
    end = [f"-{way} {chain}" for chain in below for way in "jjg"]
    own = [
        "", "", "-j ACCEPT", "-j ACCEPT", "-j DROP", "-j RETURN", *end, *end,
        *(f"-j MARK --set-xmark {mark}" for mark in ("0x1/0x1", "0x2/0xffffffff", "0x10/0x10", "0x0/0x3")),
        "-j CONNMARK --set-xmark 0x1/0xffffffff", "-j CONNMARK --save-mark", "-j CONNMARK --restore-mark",
        "-j CONNMARK --restore-mark --nfmask 0xf --ctmask 0x3",
        "-j CONNMARK --save-mark --nfmask 0x1f --ctmask 0x2", "-j CONNMARK --set-xmark 0x10/0x10",
    ]  # fmt: skip
    if table == "raw":
        own += ["-j CT --notrack"]
    if table == "filter":
        own += ["-j REJECT"]
    if table == "mangle":
        hops, option = ("TTL", "ttl") if family is Family.IPV4 else ("HL", "hl")
        own += [
            f"-j {hops} --{option}-set 1", f"-j {hops} --{option}-inc 1", f"-j {hops} --{option}-dec 2",
            f"-j {hops} --{option}-set 64", "-j TOS --set-tos 0x10/0x3f", "-j TOS --or-tos 0x08",
            "-j DSCP --set-dscp 46",
            "-j MSS",
        ]  # fmt: skip
    return own


def random_rule(rng: random.Random, table: str, family: Family, hook: Hook | None, below: list[str]) -> str:
    """For a base chain at `hook`, or for a user chain."""
    words = [chance(rng, "-p tcp", "-p tcp", "-p udp", "! -p tcp", "! -p udp", "-p icmp")]
    for end in "sd":
        words.append(chance(rng, *(f"{no}-{end} {each}" for no in ("", "", "! ") for each in addresses(family))))
    if hook not in (Hook.OUTPUT, Hook.POSTROUTING):
        words.append(chance(rng, "-i ext0", "! -i ext0", "-i ex+", "-i lo", "-i int0"))
    if hook not in (Hook.PREROUTING, Hook.INPUT):
        words.append(chance(rng, "-o int0", "! -o int0", "-o in+", "-o ext0", "-o lo"))
    if words[0] in ("-p tcp", "-p udp"):
        words.append(rng.choice([*(OF_TCP if words[0] == "-p tcp" else OF_UDP), *OF_BOTH]))
    words += rng.choices(matches(family), k=rng.choice((0, 1, 1, 2)))
    target = rng.choice(targets(table, family, below))
    if target == "-j MSS":
        return f"-p tcp -m tcp --tcp-flags SYN SYN -j TCPMSS --set-mss {rng.choice(('1200', '500'))}"
    return " ".join(word for word in [*words, target] if word)


def random_tables(rng: random.Random, family: Family) -> str:
    """All of them, as iptables-restore takes them."""
    lines = []
    for table in WALKED:
        chains = [f"u{number}" for number in range(rng.randrange(4))]
        hooks = TABLES[table].hooks
        lines += [f"*{table}", *(f":{hook.name} {rng.choice(['ACCEPT'] * 9 + ['DROP'])} [0:0]" for hook in hooks)]
        lines += [f":{chain} - [0:0]" for chain in chains]
        for hook in hooks:
            for _ in range(rng.randrange(7)):
                lines.append(f"-A {hook.name} {random_rule(rng, table, family, hook, chains)}")
        for number, chain in enumerate(chains):
            for _ in range(rng.randrange(6)):
                lines.append(f"-A {chain} {random_rule(rng, table, family, None, chains[number + 1 :])}")
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def random_packet(rng: random.Random, family: Family, number: int) -> Probe:
    """A packet that ends behind some table at some hook; the source port, of its own, says where."""
    watched = rng.choice(WALKED)
    hook = rng.choice(TABLES[watched].hooks)
    from_here = hook is Hook.OUTPUT or (hook is not Hook.FORWARD and rng.random() < 0.5)
    protocol = rng.choice([TCP, TCP, UDP])
    outside, inside = rng.choice(OUTSIDE[family]), rng.choice(INSIDE[family])
    more: dict[str, Any] = {}
    if from_here:
        by_lo = hook in (Hook.PREROUTING, Hook.INPUT)
        source, destination = HERE[family], HERE[family] if by_lo else inside
        more["out_name"] = "lo" if by_lo else "int0"
        local = 2 if by_lo else 1
        more["types"] = (2, local, 2, local)
    else:
        forward = hook in (Hook.FORWARD, Hook.POSTROUTING) or (hook is Hook.PREROUTING and rng.random() < 0.5)
        source, destination = outside, inside if forward else HERE[family]
        more["in_name"], more["out_name"] = "ext0", "int0" if forward else ""
        local = 1 if forward else 2
        more["types"] = (1, local, 1, local)
    known = rng.choice(["fresh", "new", "established", "reply"])
    if known == "reply":
        more |= {"is_reply": True, "states": ESTABLISHED, "tcp_flags": SYN | ACK}
    more["states"] = ESTABLISHED if known in ("reply", "established") else NEW
    if known != "fresh":
        more["ct_mark"] = rng.choice([0, 1, 2, 0x13])
        more["status"] = CONFIRMED | (SEEN_REPLY if known in ("reply", "established") else 0) | NAT_DONE
        if known != "new":  # a datagram, too, makes it ASSURED
            more |= (
                {"status": more["status"] | ASSURED} if rng.random() < 0.5 else {"status_known": ~ASSURED & ALL_STATUS}
            )
    elif from_here:
        more["status_known"] = ~CONFIRMED & ALL_STATUS  # it is when it comes back by the loopback
    if known != "fresh" and hook is not Hook.PREROUTING and from_here and destination != source and rng.random() < 0.5:
        more["nat_destination"], destination = destination, ELSEWHERE[family][0]
        more["status"] |= SRC_NAT if known == "reply" else DST_NAT
    if known != "fresh" and not from_here:
        if rng.random() < 0.5:
            more["nat_destination"], destination = destination, ELSEWHERE[family][0]
            more["types"] = (1, 1, 1, local)
            more["status"] |= SRC_NAT if known == "reply" else DST_NAT
        if hook in (Hook.FORWARD, Hook.POSTROUTING) and rng.random() < 0.5:
            more["nat_source"] = HERE[family]
            more["types"] = (*more["types"][:2], 2, more["types"][3])
            more["status"] |= DST_NAT if known == "reply" else SRC_NAT
    return Probe(
        family, protocol, hook, source, destination, sink_port(watched, hook) + number,
        rng.choice([873, 80]), from_here=from_here, ttl=rng.choice([64, 63, 3]),
        tos=rng.choice([0, 0x10, 0xB8]), **more,
    )  # fmt: skip


def watched_by(probe: Probe) -> str:
    """The table behind which it is dropped."""
    return WALKED[(probe.source_port - 20000) // 5000]


def prepare_entry(host: Host, probe: Probe) -> None:
    """The conntrack entry that the packet belongs to, unless it shall be the first one."""
    if not probe.status:
        return
    new_source, new_destination = probe.after
    ends = Entry(probe.protocol, probe.source, probe.destination, probe.source_port, probe.destination_port)
    translations: dict[str, str | None] = {"new_source": new_source, "new_destination": new_destination}
    if probe.is_reply:
        ends = Entry(probe.protocol, new_destination, new_source, probe.destination_port, probe.source_port)
        translations = {"new_source": probe.destination, "new_destination": probe.source}
    status = probe.status & (CONFIRMED | SEEN_REPLY | ASSURED)
    make_entry(host.namespace, probe.family, ends, status=status, mark=probe.ct_mark, **translations)


def walk(images: dict[str, Image], watched: str, probe: Probe) -> tuple[Walk, Walked]:
    """The packet's way, counted once."""
    walker = Walk(probe.family)
    for name, image in images.items():
        walker.add(image, TABLES[name].priority, watched=name == watched)
    return walker, walker.walk(probe.pack(), [1])


def rises(before: dict[str, Image], after: dict[str, Image]) -> Rises:
    """Packets and bytes by which each counter has risen."""
    return {
        name: [
            (now.packets - then.packets, now.bytes - then.bytes)
            for then, now in zip(before[name].counters(), after[name].counters(), strict=True)
        ]
        for name in before
    }


def counted(walker: Walk) -> Rises:
    """The same, as the walk says."""
    found = {}
    for name in WALKED:
        table = walker.counted(name)
        found[name] = list(zip(table.packets, table.bytes, strict=True))
    return found


def agree(walker: Walk, walked: Walked, risen: Rises) -> bool:
    """Whether the kernel's counters are what the walk says, or, in doubt, among what it finds possible."""
    said = counted(walker)
    if walked.certain[0]:
        return said == risen
    return all(
        packets <= rise and (rise <= packets + possible or walked.lost[0]) and more >= octets
        for name in WALKED
        for (packets, octets), possible, (rise, more) in zip(
            said[name], walker.counted(name).possible, risen[name], strict=True
        )
    )


def told(
    walker: Walk, walked: Walked, images: dict[str, Image], risen: Rises, probe: Probe, tables: str
) -> str:  # fmt: skip
    """Where the two differ."""
    lines = [str(probe), str(walked), tables]
    said = counted(walker)
    for name in WALKED:
        for place, ours, kernels in zip(images[name].places(), said[name], risen[name], strict=True):
            if ours != kernels:
                lines.append(f"{name} {place}: walked {ours}, counted {kernels}")
    return "\n".join(lines)


@pytest.mark.parametrize("family", list(Family), ids=str)
def test_the_kernel_counts_what_was_walked(host: Host, family: Family) -> None:
    """Where the walk is certain, exactly; in doubt, among its ways; and settled by what the counters then tell."""
    seen = {"sent": 0, "rules met": 0, "certain": 0, "in doubt": 0, "settled": 0}

    def run(rng: random.Random) -> None:
        tables = random_tables(rng, family)
        command = "iptables-legacy-restore" if family is Family.IPV4 else "ip6tables-legacy-restore"
        host.namespace.run([command, "-w"], input=tables)
        host.namespace.run(["conntrack", "-F"])
        for number in range(PACKETS):
            check(random_packet(rng, family, number), tables)

    def check(probe: Probe, tables: str) -> None:
        prepare_entry(host, probe)
        before = host.images(family)
        walker, walked = walk(before, watched_by(probe), probe)
        host.send(probe)
        with walker:
            if probe.from_here:  # by the loopback it may still be on its way
                wait_until(lambda: agree(walker, walked, rises(before, host.images(family))), timeout=2)
            after = host.images(family)
            risen = rises(before, after)
            assert agree(walker, walked, risen), told(walker, walked, before, risen, probe, tables)
            seen["sent"] += 1
            seen["rules met"] += sum(rise > 0 for column in risen.values() for rise, _ in column)
            seen["certain" if walked.certain[0] else "in doubt"] += 1
            if not walked.certain[0] and not walked.lost[0]:
                settle(walker, probe, risen, {name: image.places() for name, image in before.items()})

    def settle(walker: Walk, probe: Probe, risen: Rises, places: dict[str, list[tuple[str, int] | None]]) -> None:
        """With one packet every rule tells by its counter whether it matched, unless it can be met twice."""
        twice = any(
            rise and packets + possible > 1 and place is not None and place[0].startswith("u")
            for name in WALKED
            for (rise, _), packets, possible, place in zip(
                risen[name], walker.counted(name).packets, walker.counted(name).possible, places[name], strict=True
            )
        )
        for name in WALKED:
            walker.tell(name, [0 if rise == 0 else 1 for rise, _ in risen[name]])
        walker.zero()
        now = walker.walk(probe.pack(), [1])
        if not twice:
            assert now.certain[0]
            assert counted(walker) == risen
            seen["settled"] += 1

    for seed in range(SEED, SEED + EXAMPLES):
        run(random.Random(seed))
    assert seen["sent"] == EXAMPLES * PACKETS
    assert seen["rules met"] > 4 * seen["sent"]
    assert seen["certain"] > 0.7 * seen["sent"]
    assert seen["settled"] > 0.2 * seen["in doubt"]
