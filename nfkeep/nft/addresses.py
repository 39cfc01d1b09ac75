"""Addresses and networks as text, turned into keys of sets in C: one at a time, or lines by the thousand.

Strict, as inet_pton(3) is: what two programs could read in two ways is no address.
"""

from __future__ import annotations

from nfkeep.nft._ffi import COVERS_GUARD, IN_GUARD, REASONS, Guards, Sorted, parse, sort

__all__ = ["COVERS_GUARD", "IN_GUARD", "REASONS", "Guards", "Sorted", "parse", "sort"]
