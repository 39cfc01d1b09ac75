"""Sets of ipset and their translation: the same packets are found in them, and the same ones are added."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import time

import pytest
from twins import Twins

from nfkeep import Family
from nfkeep.migrate import translate
from nfkeep.namespaces import Namespace

MAC = "00:11:22:33:44:55"


def _address(chance: random.Random) -> str:
    return f"127.0.{chance.randrange(4)}.{chance.randrange(1, 9)}"


def _network(chance: random.Random) -> str:
    length = chance.choice((8, 20, 22, 23, 24, 28, 29, 30, 31, 32, 32))
    return str(ipaddress.ip_network(f"{_address(chance)}/{length}", strict=False))


def _sets(chance: random.Random) -> str:
    """Random sets of all types that this kernel may have, networks within each other with exceptions."""

    def port() -> str:
        return f"{chance.choice(('tcp', 'udp', 'udp'))}:{chance.randrange(1, 5)}"

    def address() -> str:
        return _address(chance)

    def network() -> str:
        return _network(chance)

    makers = {
        "h hash:ip": (8, lambda: address()),
        "hm hash:ip netmask 30": (4, lambda: f"127.0.{chance.randrange(4)}.{4 * chance.randrange(3)}"),
        "n hash:net": (10, lambda: network()),
        "hp hash:ip,port": (20, lambda: f"{address()},{port()}"),
        "np hash:net,port": (20, lambda: f"{network()},{port()}"),
        "hpi hash:ip,port,ip": (60, lambda: f"{address()},{port()},{address()}"),
        "hpn hash:ip,port,net": (60, lambda: f"{address()},{port()},{network()}"),
        "ni hash:net,iface": (10, lambda: f"{network()},{chance.choice(('lo', 'eth0'))}"),
        "bi bitmap:ip range 127.0.0.0-127.0.3.255": (8, lambda: address()),
        "bp bitmap:port range 1-100": (2, lambda: str(chance.randrange(1, 5))),
    }
    lines = []
    for head, (count, make) in makers.items():
        name, kind = head.split()[:2]
        lines.append(f"create {head}")
        for element in {make().replace("/32", "") for _ in range(count)}:
            lines.append(f"add {name} {element}" + ("" if "net" not in kind else chance.choice(("", " nomatch"))))
    return "\n".join([*lines, "create l list:set", "add l n", "add l hp", "add l bi", ""])


SIDES = {"h": 1, "hm": 1, "n": 1, "hp": 2, "np": 2, "hpi": 3, "hpn": 3, "ni": 2, "bi": 1, "bp": 1, "l": 2}


@pytest.mark.parametrize("name", SIDES)
def test_the_same_packets_are_found(name: str) -> None:
    """Random sets, all directions, with and without `!` and --return-nomatch: no verdict differs."""
    chance = random.Random(name)
    extras = ("", " --return-nomatch") if name in ("n", "np", "hpn", "ni", "l") else ("",)
    differences = []
    for opposite in ("", "! "):
        for extra in extras:
            for _ in range(2):
                sides = ",".join(chance.choice(("src", "dst")) for _ in range(SIDES[name]))
                rule = f"-m set {opposite}--match-set {name} {sides}{extra} -j DROP"
                with Twins([rule], ipsets=_sets(chance)) as twins:
                    assert twins.translation.exact
                    for _ in range(60):
                        packet = (_address(chance), chance.randrange(1, 5))
                        legacy, nft = twins.send(*packet, to=(to := _address(chance)))
                        if legacy != nft:
                            differences.append((rule, packet, to, legacy, nft))
    assert differences == []


def test_icmp_and_other_protocols_are_found() -> None:
    """By type and code, and by the protocol alone."""
    sets = "create s hash:ip,port\nadd s 127.0.0.2,icmp:echo-request\nadd s 127.0.0.2,gre:0\nadd s 127.0.0.2,udp:9\n"
    request, reply = bytes([8, 0, 0, 0, 0, 1, 0, 1]), bytes([0, 0, 0, 0, 0, 1, 0, 1])
    for sides in ("src,dst", "src,src"):
        with Twins([f"-m set --match-set s {sides} -j DROP"], ipsets=sets) as twins:
            for source in ("127.0.0.2", "127.0.0.3"):
                found = source == "127.0.0.2"
                assert twins.send_raw(source, 1, request) == (not found, not found)
                assert twins.send_raw(source, 1, reply) == (True, True)
                assert twins.send_raw(source, 47, bytes(16)) == (not found, not found)
                assert twins.send_raw(source, 132, bytes(16)) == (True, True)
                dropped = found and sides == "src,dst"
                assert twins.send(source, 9) == (not dropped, not dropped)


CHANGED = {
    "": "-m set --match-set a src -j DROP|-j SET --add-set a src",
    "with --exist": "{3,0} -j SET --add-set b dst --exist --timeout 2|-m set --match-set b dst -j DROP",
    "to and from for ever": (
        "{4,0} -j SET --add-set c src --exist --timeout 1|{5,1} -j SET --add-set c src --exist|"
        "{7,2} -j SET --del-set c src|-m set --match-set c src -j DROP"),
    "with ports": "-m set --match-set d src,dst -j DROP|{3,1} -j SET --add-set d src,dst --del-set a src",
    "of ports": "{6,2} -j SET --add-set e dst|-m set --match-set e dst -m set --match-set h src -j DROP",
    "in a range": "{4,1} -j SET --add-set f dst|-m set --match-set f src -j DROP",
    "of three": "{3,1} -j SET --add-set g dst,dst,src|-m set --match-set g src,dst,dst -j DROP",
    "masked": "{3,1} -j SET --add-set h dst|-m set --match-set h src -j DROP|{9,1} -j SET --del-set h src",
}  # fmt: skip
CHANGEABLE = """create a hash:ip timeout 1
create b hash:ip timeout 9
create c hash:ip timeout 0
add c 127.0.0.2
add c 127.0.1.3 timeout 2
create d hash:ip,port
create e bitmap:port range 5-6 timeout 2
create f bitmap:ip range 127.0.0.0-127.0.1.255
create g hash:ip,port,ip timeout 1
create h hash:ip netmask 24
"""


def test_rules_change_sets_equally() -> None:
    """Packets that add and delete elements, over some seconds, with timeouts: no verdict differs."""
    rules = []
    for port, several in enumerate(CHANGED.values(), 1):
        for rule in several.split("|"):
            head, brace, rest = rule.rpartition("}")
            every, _, packet = head.removeprefix("{").partition(",")
            nth = f"-m statistic --mode nth --every {every} --packet {packet}" if brace else ""
            rules.append(f"-p udp -m udp --dport {port} {nth} {rest.strip()}")
    chance = random.Random(5)
    sources = ("127.0.0.2", "127.0.1.3", "127.0.2.4")
    differences, dropped = [], 0
    with Twins(rules, ipsets=CHANGEABLE) as twins:
        begun = time.monotonic()
        for tick in range(20):
            time.sleep(max(0.0, begun + tick * 0.3 - time.monotonic()))
            for port in range(1, len(CHANGED) + 1):
                for source in sources:
                    for _ in range(chance.choice((0, 0, 1, 1, 2))):
                        legacy, nft = twins.send(source, port, to=chance.choice(sources))
                        dropped += not legacy
                        if legacy != nft:
                            differences.append((tick, list(CHANGED)[port - 1], source, legacy, nft))
    assert (differences, dropped > 50) == ([], True)


def test_ipv6_is_no_different() -> None:
    """Networks of IPv6 with exceptions, and ports."""
    sets = """create n hash:net family inet6
add n fd00::/64
add n fd00::2 nomatch
create p hash:ip,port family inet6
add p fd00::1,udp:5
"""
    for rule in ("-m set --match-set n src", "-m set ! --match-set n src", "-m set --match-set p src,dst"):
        with Twins([f"-p udp {rule} -j DROP"], Family.IPV6, ipsets=sets) as twins:
            seen = []
            for address in ("fd00::1", "fd00::2", "fd00:0:0:1::1"):
                twins.add_address(address)
                seen += [twins.send(address, port) for port in (4, 5)]
        assert [pair for pair in seen if pair[0] != pair[1]] == []
        assert len(set(seen)) == 2


UNTRIED = {
    "hash:mac": (MAC, "src"),
    "hash:ip,mac": (f"127.0.0.1,{MAC}", "src,src"),
    "hash:ip,mark": ("127.0.0.1,0x10", "src,src"),
    "hash:net,net": ("127.0.0.0/8,127.0.0.0/16", "src,dst"),
    "hash:net,port,net": ("127.0.0.0/8,tcp:80,127.0.0.0/16", "src,dst,dst"),
    "bitmap:ip,mac range 127.0.0.0/24": (f"127.0.0.1,{MAC}", "src,src"),
    "hash:net,iface": ("127.0.0.0/8,eth wildcard", "src,src"),
}


@pytest.mark.parametrize("kind", UNTRIED)
def test_types_that_a_kernel_may_lack_load_as_well(kind: str) -> None:
    """Where ipset has no such type, nft takes the translation all the same."""
    element, sides = UNTRIED[kind]
    sets = f"create s {kind}\nadd s {element}\n"
    rules = f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m set --match-set s {sides} -j DROP\nCOMMIT\n"
    found = translate(rules, ipsets=sets)
    assert found.exact
    with contextlib.closing(Namespace()) as namespace:
        namespace.run(["nft", "-f", "-"], input=found.script)
