"""The power is cut at random moments of apply, confirm and rollback: what the next boot loads is whole, and known."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import MovedMachine

pytestmark = pytest.mark.timeout(6 * 3600)

CUTS = int(os.environ.get("NFKEEP_POWER_CUTS") or 40)
APPLY, CONFIRM, ROLLBACK = (f"nfkeep-migrate {each}" for each in ("apply", "confirm", "rollback"))
WAYS = ((APPLY,), (APPLY, CONFIRM), (APPLY, ROLLBACK), (APPLY, CONFIRM, ROLLBACK))
"""What is done, and during the last of it the power is cut; each time another of them."""


def test_what_is_not_synced_is_lost(moved: MovedMachine) -> None:
    """So that these tests would find it."""
    moved.machine.run("echo lost >/root/lost; echo kept >/root/kept; sync /root/kept")
    moved.machine.cut()
    moved.machine.boot()
    assert moved.machine.run("cat /root/kept /root/lost", check=False).stdout == "kept\n"


def test_power_cuts(moved: MovedMachine) -> None:
    """Old rules or new ones are in force, whole, or both; `status` tells which; a rollback or a new move heals it."""
    machine, seed = moved.machine, random.randrange(1 << 32)
    chance = random.Random(seed)
    durations = {}

    def whole(command: str) -> None:
        began = time.monotonic()
        machine.run(command)
        durations[command] = time.monotonic() - began

    whole(APPLY)
    new = moved.look().nft
    whole(CONFIRM)
    whole(ROLLBACK)
    for number in range(CUTS):
        *before, last = WAYS[number % len(WAYS)]
        for command in before:
            whole(command)
        machine.begin(last)
        after = chance.random() * durations[last]
        time.sleep(after)  # not for anything to happen: the moment is to be any
        machine.cut()
        machine.boot()
        sight = moved.look()
        moment = f"seed {seed}, cut {number}, {last} after {after:.2f} of {durations[last]:.2f} s, {len(before)} before"
        told = f"{moment}: {len(sight.iptables)} lines of iptables, {len(sight.nft)} of nft, {sight.status}"
        print(told, flush=True)
        assert sight.iptables in ((), moved.old), told
        assert sight.nft in ((), new), told
        assert sight.iptables or sight.nft, told
        assert sight.says[1:] == (bool(sight.iptables), bool(sight.nft)), told
        # What was not confirmed at an earlier boot is in nobody's way; a confirmed move has to be taken back.
        unfinished = sight.says[0] in ("applying", "applied")
        if sight.nft or sight.says[0] == "confirmed" or (unfinished and chance.random() < 0.5):
            whole(ROLLBACK)
            sight = moved.look()
            assert (sight.iptables, sight.nft, sight.says) == (moved.old, (), ("rolled back", True, False)), told
