"""The opening packets of real flows meet the rules that the walk has said, and raise the counters by what it counts."""

from __future__ import annotations

import pytest
from kernel.test_conntrack_restore import LIMIT, SHAPES, TCP, Shape, World, world

from nfkeep.conntrack import Conntrack, Injector, prime
from nfkeep.model import Family
from nfkeep.xtables._ffi import read_image
from nfkeep.xtables.image import Image
from nfkeep.xtables.tables import TABLES
from nfkeep.xtables.walk import Outcome, Walk

pytestmark = pytest.mark.kernel

WALKED = ("raw", "mangle", "filter", "security")
RULES = (
    "-t raw -A PREROUTING {p} -m conntrack --ctstate INVALID",
    "-t raw -A OUTPUT {p} -m conntrack ! --ctstate INVALID",
    "-t mangle -A PREROUTING {p} -i cli0 -j MARK --set-mark 1",
    "-t mangle -A PREROUTING {p} -i lo -j MARK --set-mark 2",
    "-t mangle -A PREROUTING {p} -m conntrack --ctstate NEW -j CONNMARK --save-mark",
    "-t mangle -A OUTPUT {p} -o srv0 -m ttl --ttl-eq 64 -j MARK --set-mark 3",
    "-t mangle -A OUTPUT {p} -m length --length 36:60",
    "-t mangle -A FORWARD {p} -o srv0 -m ttl --ttl-eq 63 -m mark --mark 1 -m connmark --mark 1",
    "-t mangle -A FORWARD {p} --dport 8730 -m conntrack --ctstate DNAT",
    "-I INPUT 1 {p} -m conntrack --ctstate ESTABLISHED -j ACCEPT",
    "-I INPUT 2 {p} -m mark ! --mark 0",
    "-I INPUT 3 {p} -m statistic --mode random --probability 1",
    "-I OUTPUT 1 {p} -m conntrack --ctstatus SEEN_REPLY -j ACCEPT",
    "-I OUTPUT 2 {p} -m owner --uid-owner 0",
    "-I OUTPUT 3 {p} -m conntrack --ctreplsrcport 873",
)


def add_rules(it: World, shape: Shape) -> None:
    """Around the limiting one; all of them ask for the protocol, so that only our packets can raise them."""
    protocol = "-p tcp" if shape.protocol == TCP else "-p udp"
    for rule in RULES:
        text = rule.format(p=protocol)
        it.rule(
            *(text.replace("-m ttl --ttl-eq", "-m hl --hl-eq") if shape.family is Family.IPV6 else text).split(" ", 1)
        )


def images(family: Family) -> dict[str, Image]:
    return {name: read_image(name, family) for name in WALKED}


def counters(image: Image) -> dict[tuple[str, int], tuple[int, int]]:
    """Of the rules; whatever passes raises a policy's."""
    places = image.places()
    policies = {
        place for place, below in zip(places, [*places[1:], None], strict=True) if below is None or below[1] == 1
    }
    return {
        place: (each.packets, each.bytes)
        for place, each in zip(places, image.counters(), strict=True)
        if place is not None and place not in policies
    }


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_counters_rise_as_walked(shape: Shape) -> None:
    """On every way, with NAT and marks; doubts, such as the limit itself, are settled by what has risen."""
    with world(shape) as it:
        add_rules(it, shape)
        assert it.dial(LIMIT) == LIMIT
        assert it.alive() == LIMIT
        it.wait_for_acks()
        it.replace_table()
        it.gate(shape.hook)
        with (
            it.host, Conntrack() as conntrack, Injector() as injector,
            conntrack.select(shape.family, [shape.selector]) as flows, Walk(shape.family) as walk,
        ):  # fmt: skip
            probes = flows.probes(is_new=True)
            before = images(shape.family)
            for name, image in before.items():
                walk.add(image, TABLES[name].priority, watched=name == "filter")
            foreseen = walk.walk(probes)
            primed = prime(conntrack, flows, injector, recreate=True, nonces=it.nonces)
            after = images(shape.family)
            walked = walk.settle(list(after.values()), probes, [1] * len(foreseen.outcomes), ours=WALKED)
            assert primed.primed == LIMIT
            assert foreseen.hazards == ()
            assert walked.outcomes == bytes([Outcome.REACHED_SINK, Outcome.NO_PACKET]) * LIMIT
            assert walked.certain == b"\1\1" * LIMIT
            for name in WALKED:
                then, now, places = counters(before[name]), counters(after[name]), before[name].places()
                risen = {at: (now[at][0] - then[at][0], now[at][1] - then[at][1]) for at in then}
                counted = walk.counted(name)
                said = dict(zip(places, zip(counted.packets, counted.bytes, strict=True), strict=True))
                assert {at: said[at] for at in risen} == risen
