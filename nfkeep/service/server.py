"""The server: the lists, the clients' connections, and how it starts, takes on another configuration, and stops.

Everything here is for the one thread that the event loop runs in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nfkeep.service.config import Config
from nfkeep.service.connection import Connection
from nfkeep.service.desk import Desk
from nfkeep.service.door import Door
from nfkeep.service.listening import Listener
from nfkeep.service.lists import ServedList
from nfkeep.service.peer import Peer
from nfkeep.service.turns import Turns

_LAST_SECONDS = 1.0  # for clients to take what was sent

_log = logging.getLogger("nfkeep.service")


class Server:
    """Serves from when it is made, by a coroutine, until `stop`; raises as `BanList.open`, and has opened nothing then.

    Closes `listener` when it stops.
    """

    def __init__(self, config: Config, listener: Listener) -> None:
        self._config = config
        self._listener = listener
        self._desk = Desk()
        self._desk.lists = _open_lists(config, {})
        self._turns = Turns(asyncio.get_running_loop(), config.rate)
        self._door = Door(listener.socket, config, self._enter)

    def reload(self, config: Config) -> None:
        """Go on with another configuration, for those who are connected, too; if that raises, all stays as it was.

        A list that is configured as before is looked after: rules of it that were removed are put back. One that is
        not in the configuration any more stays in force and is served no more. The socket stays as it is.
        """
        if (config.socket, config.group) != (self._config.socket, self._config.group):
            _log.warning("socket and group stay as they were: they change with a restart only")
        served = _open_lists(config, self._desk.lists)
        for name, each in self._desk.lists.items():
            if served.get(name) is not each:
                each.close()
        self._desk.lists = served
        self._door.change_limits(config)
        self._turns.change_rate(config.rate)
        self._config = config

    async def stop(self) -> None:
        """End all connections and let go of the kernel; the bans stay in force."""
        await self._door.close()
        self._listener.close()
        for connection in [*self._door.connections]:
            connection.close()
        end = asyncio.get_running_loop().time() + _LAST_SECONDS
        while self._door.connections and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.005)
        for connection in [*self._door.connections]:
            connection.abort()
        await asyncio.sleep(0)  # until they are told, so that none has a turn any more
        for each in self._desk.lists.values():
            each.close()

    def _enter(self, peer: Peer, ended: Callable[[Connection], None]) -> Connection:
        return Connection(peer, self._config, self._desk, self._turns, ended)


def _open_lists(config: Config, open_already: dict[str, ServedList]) -> dict[str, ServedList]:
    served: dict[str, ServedList] = {}
    try:
        for each in config.lists:
            known = open_already.get(each.name)
            served[each.name] = known if known is not None and known.config == each else ServedList(each)
            served[each.name].open()
    except BaseException:
        for name, made in served.items():
            if open_already.get(name) is not made:
                made.close()
        raise
    return served
