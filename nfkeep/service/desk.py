"""Where a client's line becomes an answer: read, checked against what the client may do, done, and answered.

Whatever goes wrong with one line, there is one answer to it, and the next line is served as if nothing had been.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from nfkeep import NfkeepError
from nfkeep.service import protocol, reading
from nfkeep.service.lists import ServedList
from nfkeep.service.operations import Body
from nfkeep.service.peer import Peer
from nfkeep.service.protocol import Operation, Refusal, Request, Trouble

_log = logging.getLogger("nfkeep.service")


class Desk:
    """Answers lines. `lists` are those that are served, by name."""

    def __init__(self) -> None:
        self.lists: dict[str, ServedList] = {}

    def answer(self, peer: Peer, line: bytes) -> bytes | Awaitable[bytes]:
        """The line to send back, now or when awaited; raises nothing, then neither."""
        id_json = "null"
        try:
            found = reading.read_object(line)
            id_json = reading.read_id(found)
            body = self._perform(peer, reading.read_request(found))
        except Exception as error:
            return _refuse(id_json, error)
        return protocol.answer(id_json, body) if isinstance(body, dict) else _answer_later(id_json, body)

    def _perform(self, peer: Peer, request: Request) -> Body | Awaitable[Body]:
        if request.operation is Operation.PING:
            return {}
        served = self.lists.get(request.list_name)
        if served is None or not served.admits(peer, request.operation):
            _log.warning("%s may not %s in list %.80r", peer, request.operation.value, request.list_name)
            # the same words for both, or else anybody could find out which lists there are
            raise Refusal(Trouble.FORBIDDEN, "there is no such list, or you may not do this in it")
        return served.perform(request, peer.uid)


async def _answer_later(id_json: str, body: Awaitable[Body]) -> bytes:
    try:
        return protocol.answer(id_json, await body)
    except Exception as error:
        return _refuse(id_json, error)


def _refuse(id_json: str, error: Exception) -> bytes:
    if not isinstance(error, NfkeepError):
        _log.error("a request failed for a reason that nobody thought of", exc_info=error)
        error = Refusal(Trouble.INTERNAL, "nfkeepd failed; its journal says more")
    return protocol.refusal(id_json, error)
