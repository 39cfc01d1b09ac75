"""Whatever is done with a list, in any order, it is what a dictionary would be: the same for all three backends."""

from __future__ import annotations

import ipaddress
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from rounds import rounds

import nfkeep
from nfkeep import BanList
from nfkeep.namespaces import Namespace

if TYPE_CHECKING:
    from nfkeep.bans.values import Address

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

HOSTS = st.one_of(
    st.integers(0, 15).map(lambda number: f"203.0.113.{number}"),
    st.integers(0, 7).map(lambda number: f"2001:db8::{number:x}"),
)
NETWORKS = st.sampled_from(
    ["203.0.113.0/24", "203.0.113.0/28", "203.0.112.0/20", "2001:db8::/64", "2001:db8::/32", "128.0.0.0/1", "8000::/1"]
)
TIMEOUTS = st.sampled_from([None, 600, 3600, 86400, math.inf])


class ListAndModel(RuleBasedStateMachine):
    """A list beside a dictionary from address to timeout."""

    backend = ""
    timed = True
    networks = True

    @initialize()
    def start(self) -> None:
        self.namespace = Namespace()
        self.model: dict[Address, float] = {}
        self.bans = BanList("model", self.backend)
        self.open()

    def open(self) -> None:
        with self.namespace:
            self.bans.open()

    def addresses(self, some: list[str]) -> list[str]:
        return [each for each in some if self.networks or "/" not in each]

    def remember(self, address: str, timeout: float | None) -> None:
        network = ipaddress.ip_network(address)
        key = network if network.prefixlen < network.max_prefixlen else network.network_address
        self.model[key] = math.inf if timeout is None else timeout

    @rule(address=st.one_of(HOSTS, NETWORKS), timeout=TIMEOUTS)
    def ban(self, address: str, timeout: float | None) -> None:
        for each in self.addresses([address]):
            self.bans.ban(each, timeout if self.timed else None)
            self.remember(each, timeout if self.timed else None)

    @rule(address=st.one_of(HOSTS, NETWORKS))
    def unban(self, address: str) -> None:
        for each in self.addresses([address]):
            network = ipaddress.ip_network(each)
            key = network if network.prefixlen < network.max_prefixlen else network.network_address
            assert self.bans.unban(each) == (key in self.model)
            self.model.pop(key, None)

    @rule(some=st.lists(st.one_of(HOSTS, NETWORKS), max_size=12), timeout=TIMEOUTS)
    def ban_many(self, some: list[str], timeout: float | None) -> None:
        some = self.addresses(some)
        timeout = timeout if self.timed else None
        self.bans.ban_many(some, timeout)
        for each in some:
            self.remember(each, timeout)

    @rule(some=st.lists(st.tuples(st.one_of(HOSTS, NETWORKS), TIMEOUTS), max_size=12))
    def ban_many_with_timeouts(self, some: list[tuple[str, float | None]]) -> None:
        if not self.timed:
            return
        self.bans.ban_many(some)
        for address, timeout in some:
            self.remember(address, timeout)

    @rule(some=st.lists(st.one_of(HOSTS, NETWORKS), max_size=12))
    def unban_many(self, some: list[str]) -> None:
        some = self.addresses(some)
        before = len(self.model)
        removed = self.bans.unban_many(some)
        for each in some:
            network = ipaddress.ip_network(each)
            self.model.pop(network if network.prefixlen < network.max_prefixlen else network.network_address, None)
        assert removed == before - len(self.model)

    @rule(address=st.one_of(HOSTS, NETWORKS), bad=st.sampled_from(["", "203.0.113.9/24", "203.0.113.300", "x\ny"]))
    def ban_many_with_a_bad_one(self, address: str, bad: str) -> None:
        for each in self.addresses([address]):
            with pytest.raises(nfkeep.RefusedBansError):
                self.bans.ban_many([bad, each])
            self.remember(each, None)

    @rule()
    def flush(self) -> None:
        self.bans.flush()
        self.model.clear()

    @rule()
    def reopen(self) -> None:
        self.bans.close()
        self.bans = BanList("model", self.backend)
        self.open()

    @rule(some=st.lists(st.one_of(HOSTS, NETWORKS), max_size=12))
    def reconcile(self, some: list[str]) -> None:
        some = self.addresses(some)
        self.bans.reconcile(some)
        wanted = dict(self.model)
        self.model.clear()
        for each in some:
            self.remember(each, None)
        self.model.update({key: wanted[key] for key in self.model if key in wanted})

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "model"):
            return
        seen = {ban.address: ban for ban in self.bans}
        assert set(seen) == set(self.model)
        assert len(self.bans) == len(self.model)
        for address, timeout in self.model.items():
            assert address in self.bans
            ban = seen[address]
            if math.isinf(timeout):
                assert ban.timeout is None
            else:
                assert ban.expires is not None
                assert timeout - 60 < ban.expires <= timeout

    def teardown(self) -> None:
        if hasattr(self, "bans"):
            self.bans.close()
            self.namespace.close()


class Nft(ListAndModel):
    backend = "nft"


class Ipset(ListAndModel):
    backend = "ipset"


class Recent(ListAndModel):
    backend = "recent"
    timed = False
    networks = False


@pytest.mark.parametrize("machine", [Nft, Ipset, Recent], ids=lambda machine: machine.__name__.lower())
def test_as_a_dictionary(machine: type[RuleBasedStateMachine]) -> None:
    """Any sequence of ban, unban, ban_many, flush and reopen equals the model."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=rounds(40),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
