"""A list that is open: its backend, and what else looks at the network namespace that it was opened in.

All of it is sockets and files of one process; what is in the kernel lives on without them.
"""

from __future__ import annotations

import time

from nfkeep.bans.backend import Backend
from nfkeep.bans.given import milliseconds
from nfkeep.bans.guards import NO_GUARDS, Guarded
from nfkeep.bans.kill import Killer
from nfkeep.bans.values import Policy
from nfkeep.errors import InvalidBanError, UnsupportedError
from nfkeep.nft.addresses import Guards

_FRESH_SECONDS = 1.0
_GATEWAY_MS = 7 * 86_400_000


class Opened:
    """What a `BanList` has while it is open; to be made in the namespace of `backend`, which it owns.

    `default_ms`: of bans that say nothing, 0 for ever.
    """

    def __init__(self, backend: Backend, reason: str, policy: Policy, default_ms: int) -> None:
        self.backend = backend
        self.reason = reason
        self.policy = policy
        self.ban_host = backend.ban_host
        self.default_ms = default_ms
        self.plain_ms = default_ms if backend.limits.timeout_ms else 0
        self.longest_seconds = backend.limits.timeout_ms // 1000
        self.guards = NO_GUARDS
        self.fresh_until = 0.0
        self.guarded = Guarded()
        self.killer: Killer | None = None
        try:
            self.look_around(policy)
        except BaseException:
            self.let_go()
            raise

    def look_around(self, policy: Policy) -> None:
        """Take the policy, and see what gateways and addresses the host has now."""
        self.policy = policy
        if policy.kill and self.killer is None:
            self.killer = Killer(policy.services)
        for kind, key in self.guarded.gateways():
            self.backend.except_for(kind, key, _GATEWAY_MS, "gateway")
        self.refresh()

    def refresh(self) -> None:
        """Read the allow list and the host's addresses again; others change them."""
        self.guarded.refresh(self.backend.allowed())
        self.guards = self.guarded.all
        self.fresh_until = time.monotonic() + _FRESH_SECONDS

    def guards_for(self, force: bool) -> Guards:
        """What speaks against a ban."""
        return self.guarded.forced if force else self.guards

    def timeout_ms(self, timeout: float | None) -> int:
        """Of a ban with this timeout in seconds. Raises InvalidBanError, UnsupportedError."""
        return self.plain_ms if timeout is None else checked_timeout(self.backend, timeout, self.default_ms)

    def let_go(self) -> None:
        """Close all but the backend. Idempotent."""
        self.guarded.close()
        if self.killer is not None:
            self.killer.close()

    def close(self) -> None:
        """Close all; the list stays in force. Idempotent."""
        self.let_go()
        self.backend.close()


def checked_timeout(backend: Backend, timeout: float, default_ms: int) -> int:
    """A timeout of seconds in ms, if the backend can keep it, or it is that of the whole list."""
    wanted = milliseconds(timeout)
    if wanted and not backend.limits.timeout_ms:
        if backend.limits.list_timeout and wanted == default_ms:
            return 0
        raise UnsupportedError(
            f"{backend.kind_name} keeps no time for single bans: give the list a timeout, or use nft or ipset",
            "timeout of a ban",
        )
    if wanted > backend.limits.timeout_ms:
        raise InvalidBanError(f"{timeout:g} s is longer than {backend.kind_name} can keep a ban")
    return wanted
