"""Sixteen processes in one list at once, and a hundred thousand attempts to say something that is no address."""

from __future__ import annotations

import contextlib
import ipaddress
import multiprocessing
import random
import re
import string
from typing import TYPE_CHECKING

import pytest

import nfkeep
from nfkeep import BanList
from nfkeep.nft.batch import BatchSocket

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
PROCESSES = 16
OPERATIONS = {"nft": 1_000_000, "ipset": 100_000, "recent": 100_000}


def work(number: int, operations: int, backend: str, namespace: Namespace, results: SimpleQueue[set[str]]) -> None:
    """Ban and unban addresses of this process's own, and now and then one that all have; tell what is left of them."""
    chance = random.Random(number)
    own = [f"10.{number}.{block}.{host}" for block in range(4) for host in range(100 if backend != "recent" else 1)]
    inside: set[str] = set()
    with namespace:
        bans = BanList("shared", backend, size=512).open()
    left = operations
    while left > 0:
        some = chance.sample(own, min(len(own), chance.choice([1, 1, 1, 20, 100])))
        left -= len(some)
        if chance.random() < 0.55:
            if len(some) == 1:
                bans.ban(some[0])
            else:
                bans.ban_many(some)
            inside.update(some)
        elif len(some) == 1:
            assert bans.unban(some[0]) == (some[0] in inside)
            inside.difference_update(some)
        else:
            assert bans.unban_many(some) == len(inside.intersection(some))
            inside.difference_update(some)
        if chance.random() < 0.01:
            bans.ban("192.0.2.1")
    bans.close()
    results.put(inside)


@pytest.mark.parametrize("backend", OPERATIONS)
def test_processes(namespace: Namespace, backend: str) -> None:
    """After a million operations of 16 processes on one list that had to grow, it has exactly what each left in it."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with namespace:
        bans = BanList("shared", backend, size=512).open()
    with contextlib.closing(bans):
        bans.ban("192.0.2.1")
        workers = [
            context.Process(target=work, args=(number, OPERATIONS[backend] // PROCESSES, backend, namespace, results))
            for number in range(PROCESSES)
        ]
        for each in workers:
            each.start()
        expected = {"192.0.2.1"}
        for each in workers:
            each.join()
        assert [each.exitcode for each in workers] == [0] * PROCESSES
        for _ in workers:
            expected |= results.get()
        assert {str(ban.address) for ban in bans} == expected
        assert len(bans) == len(expected)


SEEDS = [
    "203.0.113.9", "203.0.113.0/24", "2001:db8::1", "2001:db8::/64", "::ffff:203.0.113.9", "0.0.0.0/0", "fe80::1%lo",
    "203.0.113.9; flush ruleset", "203.0.113.9 } ; drop table inet nfkeep; #", '"', "\\", "$(reboot)", "`reboot`",
    "%n%s",
    "../../etc/passwd", "-1", "@ban/jail/v4", "{203.0.113.9, 203.0.113.10}", "203.0.113.1-203.0.113.9", "+203.0.113.9",
    "/", "203.0.113.9\n+198.51.100.1", "203.0.113.9\0", "٢٠٣.٠.١١٣.٩", "\ud800", "\U0001f4a9", "0x7f.1", "1e3",
]  # fmt: skip


def hostile(count: int) -> list[str]:
    """Texts that are near addresses, or near what some parser would take for more than one; the same each time."""
    chance = random.Random(20140711)
    letters = string.printable + "\0\x7f\x80é٣\ud800"
    made = []
    for _ in range(count):
        text = chance.choice(SEEDS)
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(text) + 1)
            step = chance.randrange(5)
            if step == 0:
                text = text[:at] + chance.choice(letters) + text[at:]
            elif step == 1:
                text = text[:at] + text[at + 1 :]
            elif step == 2:
                text = text[:at] + chance.choice(SEEDS) + text[at:]
            elif step == 3:
                text = text[:at] + text[at:][::-1]
            else:
                text = (text * chance.choice([1, 1, 1, 2, 500]))[:20_000]
        made.append(text)
    return made


def is_address(text: str) -> bool:
    """Whether Python's ipaddress says so too; it takes a zone, and masks in other forms."""
    head, slash, prefix = text.partition("/")
    if "%" in text or (slash and (not prefix.isascii() or not prefix.isdecimal() or str(int(prefix)) != prefix)):
        return False
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return bool(head)


def test_hostile_addresses(namespace: Namespace) -> None:
    """Of 100,000 texts each that is no address is an error that names it, and the kernel sees none of them."""
    bad = [text for text in hostile(130_000) if not is_address(text)][:100_000]
    assert len(bad) == 100_000
    with namespace:
        bans = BanList("jail", "nft").open()
        asking = BatchSocket()
    bans.ban("203.0.113.9")
    generation = asking.generation()
    with pytest.raises(nfkeep.RefusedBansError) as many:
        bans.ban_many(bad)
    assert many.value.banned == 0
    assert [address for address, _ in many.value.refused] == bad
    assert {type(error) for _, error in many.value.refused} == {nfkeep.InvalidAddressError}
    for text in bad[::10]:
        with pytest.raises(nfkeep.InvalidAddressError) as raised:
            bans.ban(text, 600)
        assert raised.value.address == text
        assert len(str(raised.value)) < 400
        with pytest.raises(nfkeep.InvalidAddressError):
            bans.unban(text)
    assert asking.generation() == generation  # not one transaction, not even an empty one
    assert [str(ban.address) for ban in bans] == ["203.0.113.9"]
    asking.close()
    bans.close()


def test_hostile_values(namespace: Namespace) -> None:
    """Names, services, actions, timeouts and comments that cannot be are errors before anything is made."""
    names = [text for text in hostile(100_000) if not NAME.fullmatch(text)]
    for name in (*names, "", "a" * 65, "-a", ".a", "a/b", "a b", "ä", "a\n", None, 7, b"a"):
        with pytest.raises(nfkeep.InvalidListError) as raised:
            BanList(name)  # type: ignore[arg-type]  # the fault that is tested
        assert len(str(raised.value)) < 300
    for options in (
        {"ports": ["22/icmp"]},
        {"ports": ["70000/tcp"]},
        {"ports": ["30-20/tcp"]},
        {"ports": ["22/tcp; drop"]},
        {"ports": [""]},
        {"ports": ["nosuchservice"]},
        {"action": "accept"},
        {"action": "reject", "reject_with": "bomb"},
        {"size": 0},
        {"size": 1 << 30},
        {"size": "many"},
    ):
        with pytest.raises(nfkeep.InvalidListError):
            BanList("jail", "nft", **options)  # type: ignore[arg-type]  # the fault that is tested
    with pytest.raises(nfkeep.InvalidListError):
        BanList("jail", "pf").open()
    with namespace:
        too_many = BanList("jail", "nft", ports=[f"{port}/tcp" for port in range(100)])
        with pytest.raises(nfkeep.InvalidListError):
            too_many.open()
        assert namespace.run("nft list ruleset").stdout == ""
        bans = BanList("jail", "nft").open()
    network = ipaddress.ip_network("203.0.113.0/24")
    for one in ("203.0.113.9", network, network[9]):
        for use in (bans.ban_many, bans.unban_many, bans.reconcile, lambda given: BanList("x", "nft", allow=given)):
            with pytest.raises(nfkeep.InvalidAddressError, match="several"):
                use(one)
    bans.allow("198.51.100.1")
    with pytest.raises(nfkeep.InvalidAddressError):
        bans.disallow("198.51.100.1", "nonsense")
    assert [str(each) for each in bans.allowed()] == ["198.51.100.1"]
    for timeout in (0, -1, float("nan"), True, "600", 1e30, 1e308, 10**400, [], 1 << 80):
        with pytest.raises(nfkeep.InvalidBanError):
            bans.ban("203.0.113.9", timeout)  # type: ignore[arg-type]  # the fault that is tested
        with pytest.raises(nfkeep.RefusedBansError):
            bans.ban_many([("203.0.113.9", timeout)])  # type: ignore[list-item]  # the fault that is tested
    assert len(bans) == 0
    bans.close()
