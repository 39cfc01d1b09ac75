"""What `kill` does: the live connections of whom was just banned end, as their conntrack entries are deleted.

Their packets do not pass the ban anyhow; but what an entry counts for (a connection limit, a NAT port, a flow that a
flowtable carries past all rules) is free at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from nfkeep.bans.values import Kind, Service
from nfkeep.conntrack.flows import Conntrack
from nfkeep.model import Family


class Killer:
    """Deletes conntrack entries in the network namespace that was current when it was made."""

    def __init__(self, services: Sequence[Service]) -> None:
        """`services`: those that the entries were opened to; none means any."""
        self._services = [(service.protocol, service.low, service.high) for service in services]
        self._conntrack = Conntrack()

    def kill(self, banned: Sequence[tuple[Kind, bytes]]) -> int:
        """Delete the entries that these addresses have opened; how many.

        Raises PermissionDeniedError, UnsupportedError, NfkeepError.
        """
        deleted = 0
        for family in Family:
            sources = [_source(kind, key) for kind, key in banned if kind.family is family]
            if sources:
                deleted += self._conntrack.delete_from(family, sources, self._services)
        return deleted

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        self._conntrack.close()


def _source(kind: Kind, key: bytes) -> tuple[bytes, int]:
    """Address and prefix length of a key."""
    if not kind.is_network:
        return key, len(key) * 8
    half = len(key) // 2
    return key[:half], int.from_bytes(key[half:], "big").bit_count()
