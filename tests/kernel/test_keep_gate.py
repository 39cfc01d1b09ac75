"""The text of the gate is taken by nft as it is meant, whatever the rules say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfkeep import Family
from nfkeep.conntrack import Condition, Selector
from nfkeep.keep.gate import guard_table, opens
from nfkeep.model import Hook
from nfkeep.nft.owned import OwnedTable

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

HOOKS = {Hook.INPUT: 0, Hook.FORWARD: 0, Hook.OUTPUT: 0}
NONCES = {Hook.INPUT: 11, Hook.FORWARD: 22, Hook.OUTPUT: 33}


def body(family: Family, *selectors: Selector) -> str:
    return guard_table(family, selectors, HOOKS, NONCES, open_again_seconds=30)


def test_it_vanishes_with_its_process(namespace: Namespace) -> None:
    """The table is owned: nobody else can flush it, and it goes when its owner closes it."""
    with namespace:
        table = OwnedTable(body(Family.IPV4, Selector(Hook.INPUT, (Condition(protocol=6),))))
        namespace.run("nft flush ruleset")
        assert table.name in namespace.run("nft list tables").stdout
        table.close()
        assert namespace.run("nft list tables").stdout == ""


def test_opening_leaves_the_sink(namespace: Namespace) -> None:
    """Opened, the set of held-off protocols is empty; what drops our own packets is still there."""
    with namespace, OwnedTable(body(Family.IPV4, Selector(Hook.INPUT))) as table:
        assert "elements" in namespace.run(f"nft list set inet {table.name} shut").stdout
        table.run(opens(table.name))
        assert "elements" not in namespace.run(f"nft list set inet {table.name} shut").stdout
        assert "tcp sequence 11" in namespace.run(f"nft list chain inet {table.name} sink_input").stdout


def ranges() -> st.SearchStrategy[tuple[tuple[int, int], ...]]:
    port = st.integers(0, 65535)
    return st.lists(st.tuples(port, port).map(lambda p: (min(p), max(p))), max_size=4).map(tuple)


def condition(size: int) -> st.SearchStrategy[Condition]:
    address = st.one_of(st.just(b""), st.binary(min_size=size, max_size=size))
    name = st.one_of(st.just(b""), st.binary(max_size=16), st.sampled_from([b"eth0", b'e"; drop', b"a b", b"wg-0.1@x"]))
    return st.builds(
        lambda address, mask, other, other_mask, name, length, **rest: Condition(
            source=address,
            source_mask=mask if address and mask else b"\xff" * len(address),
            destination=other,
            destination_mask=other_mask if other and other_mask else b"\xff" * len(other),
            in_interface=name,
            in_interface_mask=b"\xff" * length if name else b"",
            out_interface=name[::-1],
            out_interface_mask=b"\xff" * length if name else b"",
            **rest,
        ),
        address, address, address, address, name, st.integers(0, 16),
        protocol=st.sampled_from([0, 1, 6, 17, 255]),
        protocol_inverted=st.booleans(),
        source_inverted=st.booleans(),
        destination_inverted=st.booleans(),
        in_interface_inverted=st.booleans(),
        source_ports=ranges(),
        source_ports_inverted=st.booleans(),
        destination_ports=ranges(),
        destination_ports_inverted=st.booleans(),
        either_ports=ranges(),
    )  # fmt: skip


SELECTORS = st.sampled_from(list(Family)).flatmap(
    lambda family: st.tuples(
        st.just(family),
        st.lists(
            st.builds(
                Selector,
                st.sampled_from(list(HOOKS)),
                st.lists(condition(4 if family is Family.IPV4 else 16), max_size=3).map(tuple),
                st.booleans(),
                st.booleans(),
            ),
            max_size=3,
        ),
    )
)


@given(SELECTORS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nft_takes_the_text_of_any_selectors(namespace: Namespace, given: tuple[Family, list[Selector]]) -> None:
    """Any conditions, hostile interface names too, give a table that nft accepts, and nothing beside it."""
    family, selectors = given
    with namespace, OwnedTable(body(family, *selectors)) as table:
        listed = namespace.run("nft list tables").stdout
        assert listed == f"table inet {table.name}\n"
