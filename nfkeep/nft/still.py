"""Tables taken off the packets' way and put back into it; those that stand still can be read yet, before they go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.nft.messages import NFT_MSG_DELTABLE, NFT_MSG_NEWTABLE, NLM_F_CREATE, Message
from nfkeep.nft.table_list import DORMANT
from nfkeep.nft.wire import string, u32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.nft.batch import BatchSocket
    from nfkeep.nft.table_list import SeenTable

_NAME, _FLAGS = 1, 2  # NFTA_TABLE_*


def stand_still(opened: BatchSocket, those: Sequence[SeenTable]) -> None:
    """Take tables from the packets' way, with all that is in them, in one transaction. Raises as `BatchSocket.run`."""
    # Their hooks come off when the transaction comes into force (nf_tables_commit()): until then all is as it was.
    opened.run([_made(each, u32(_FLAGS, DORMANT)) for each in those])


def wake(opened: BatchSocket, those: Sequence[SeenTable]) -> None:
    """Put dormant tables in the packets' way, in one transaction. Raises as `BatchSocket.run`."""
    # Hooks are registered one after the other, each before the transaction is in force (nf_tables_table_enable()).
    opened.run([_made(each, u32(_FLAGS, 0)) for each in those])


def delete(opened: BatchSocket, those: Sequence[SeenTable]) -> None:
    """Delete tables with all that is in them, in one transaction. Raises as `BatchSocket.run`."""
    gone = [Message(NFT_MSG_DELTABLE, 0, string(_NAME, t.name), f"the table {t.name}", t.family) for t in those]
    opened.run([*(_made(each, b"") for each in those), *gone])


def _made(table: SeenTable, flags: bytes) -> Message:
    """A message that does no harm to a table that is there, and makes one that somebody has just deleted."""
    body = string(_NAME, table.name) + flags
    return Message(NFT_MSG_NEWTABLE, NLM_F_CREATE, body, f"the table {table.name}", table.family)
