"""Which interface a sender is behind: an address is known by the answer to its own question, and by no other."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

import attrs
import pytest
from ctnetlink import TCP, Entry, make_entries
from interpose import watch_sends

from nfkeep.conntrack import Condition, Conntrack, Selector
from nfkeep.model import Family, Hook

if TYPE_CHECKING:
    from nfkeep.testing import Gateway
    from nfkeep.testing.fixtures import GatewayFactory

pytestmark = pytest.mark.kernel

PORT = 873
GET_ROUTE = 26  # RTM_GETROUTE
A_SEND = 256  # questions, csrc/conntrack_routes.c
SELECTOR = Selector(Hook.INPUT, (Condition(protocol=TCP, destination_ports=((PORT, PORT),)),))


@attrs.define
class Renumbered:
    """Makes one question about a client, of the last send that has any, one about an address behind another interface,
    with a sequence number that no question has."""

    address: bytes
    sends: int = 0
    done: int = 0

    def __call__(self, data: memoryview) -> None:
        length, kind = struct.unpack_from("=IH", data)
        if kind != GET_ROUTE:
            return
        self.sends += 1
        questions = range(0, len(data), length)
        if len(questions) == A_SEND:
            return
        for at in questions[:-1]:  # the last one's answer ends the exchange
            asked = ip_address(bytes(data[at + 32 : at + length]))  # behind struct rtmsg and struct nlattr
            if asked.packed[-1] != 1:  # the gateway's own
                (sequence,) = struct.unpack_from("=I", data, at + 8)
                struct.pack_into("=I", data, at + 8, sequence + A_SEND - len(questions))
                data[at + 32 : at + length] = self.address
                self.done += 1
                return


def select(network: Gateway, family: Family) -> tuple[int, dict[str, int], list[str]]:
    """How many flows there are, those skipped, and the interfaces that they came by."""
    with network.gateway, Conntrack() as conntrack, conntrack.select(family, [SELECTOR]) as flows:
        return len(flows), dict(flows.skipped), [socket.if_indextoname(index) for index in flows.interfaces]


@pytest.mark.parametrize("family", list(Family), ids=str)
@pytest.mark.parametrize(("clients", "sends"), [(20, 1), (300, 2)])
def test_an_answer_past_what_was_asked(
    gateway_factory: GatewayFactory, family: Family, clients: int, sends: int
) -> None:
    """It is nobody's: that client stays unknown, and those asked before, in an earlier send too, are what they were."""
    network = gateway_factory(clients)
    here = str(network.gateway_address(family))
    sources = [str(address) for address in network.client_addresses(family) if address.packed[-1] != 1]
    make_entries(network.gateway, family, [Entry(TCP, source, here, 40000, PORT) for source in sources])
    assert select(network, family) == (len(sources), {}, ["cli0"])
    renumbered = Renumbered(network.server_address(family).packed)
    left = (len(sources) - 1, {"interface unknown": 1}, ["cli0"])
    assert watch_sends(lambda: select(network, family), renumbered) == left
    assert (renumbered.done, renumbered.sends) == (1, sends)
