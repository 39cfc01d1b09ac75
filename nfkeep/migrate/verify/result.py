"""What a verification tells."""

from __future__ import annotations

import attrs


@attrs.frozen(slots=True)
class Mismatch:
    """A packet that the two hosts treat differently.

    `packet`, `legacy` and `nft` are one line each: the packet, and what became of it under iptables and under nft.
    `rules` are lines of the source: the fewest with which it still happens, if the verification could translate; else
    those that counted the packet. `together`: the packets before it have to be sent, too.
    """

    packet: str
    legacy: str
    nft: str
    rules: tuple[str, ...] = ()
    together: bool = False

    def __str__(self) -> str:
        lines = [self.packet, f"  iptables: {self.legacy}", f"  nft:      {self.nft}"]
        return "\n".join([*lines, *(f"  rule:     {rule}" for rule in self.rules)])


@attrs.frozen(slots=True)
class Verification:
    """`sent` packets went through each host. `uncompared`: what was in the rules, but not looked at, and why."""

    sent: int
    mismatches: tuple[Mismatch, ...]
    uncompared: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether no packet was treated differently; `uncompared` says what that is worth."""
        return not self.mismatches
