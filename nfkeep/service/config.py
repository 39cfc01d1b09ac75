"""The configuration of nfkeepd as frozen values: who may do what in which list, and how much at a time.

`nfkeep.service.config_file` reads it from a file.
"""

from __future__ import annotations

import attrs

from nfkeep import BanList
from nfkeep.service.limits import Rate
from nfkeep.service.protocol import Operation

_DEFAULT_OPERATIONS = frozenset([Operation.BAN, Operation.BAN_MANY, Operation.CONTAINS])
_ADDRESSES = Rate(100, 1000)
_REQUESTS = Rate(2000, 4000)


@attrs.frozen(slots=True)
class ListConfig:
    """One list: what it does to packets, as for `nfkeep.BanList` (None: as it is), and who may do what in it.

    `timeout`: seconds of bans that say nothing, `max_timeout`: of any ban; None is for ever. `rate`: addresses that
    one user may name. `max_entries`: bans that one user may have in force.
    """

    name: str
    backend: str = "auto"
    ports: tuple[str, ...] | None = None
    action: str | None = None
    reject_with: str | None = None
    kill: bool | None = None
    timeout: float | None = None
    max_timeout: float | None = None
    allow: tuple[str, ...] = ()
    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()
    operations: frozenset[Operation] = _DEFAULT_OPERATIONS
    rate: Rate = _ADDRESSES
    max_entries: int = 10_000

    def make(self) -> BanList:
        """The list, not open yet; raises InvalidListError, InvalidBanError."""
        return BanList(
            self.name,
            self.backend,
            ports=self.ports,
            action=self.action,
            reject_with=self.reject_with,
            kill=self.kill,
            timeout=self.max_timeout if self.timeout is None else self.timeout,
            allow=self.allow,
        )


@attrs.frozen(slots=True)
class Config:
    """The whole configuration. `idle_timeout`: seconds for the rest of a line, or to take an answer. `max_line`: bytes.

    `rate`: requests of one user, of whatever sort, that are looked at; more of them wait.
    """

    lists: tuple[ListConfig, ...]
    socket: str = "/run/nfkeepd/nfkeepd.sock"
    group: int | None = None
    max_connections: int = 256
    max_connections_per_user: int = 32
    idle_timeout: float = 30.0
    max_line: int = 65_536
    rate: Rate = _REQUESTS
