"""Legacy tables between the reading of their rules and the moment in which they stand still: who else changes them.

What is translated is what was read. Another rule would be out of action then, and not in nft; and counters would be
those of other rules. Bytes are compared, while the lock is held: each time with how the tables were left before.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from nfkeep.errors import NfkeepError
from nfkeep.migrate.live.host import says_anything
from nfkeep.model import Family
from nfkeep.xtables.tables import TableHandle, in_use, read_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nfkeep.keep.transaction import Transactions
    from nfkeep.migrate.live.parking import Name
    from nfkeep.xtables.image import Image


class Known:
    """Tables as they were read, or as we have left them: `images` by name. Those without one are not looked at."""

    def __init__(self, images: Mapping[Name, Image]) -> None:
        self.images = dict(images)

    def check(self, txs: Transactions) -> None:
        """Raise NfkeepError if the tables of an open transaction have other rules by now."""
        for name in txs:
            image = self.images.get(name)
            if image is not None and not txs[name].handle.opened_as(image):
                raise _changed(*name)

    def check_others(self, tables: Iterable[Name]) -> None:
        """Raise NfkeepError if a table beside these says something by now. The caller has the lock."""
        names = set(tables)
        for family in Family:
            for table in in_use(family):
                if (table, family) not in names:
                    with TableHandle(table, family) as handle:
                        if says_anything(handle):
                            raise _changed(table, family)

    def look(self, tables: Iterable[Name]) -> None:
        """Have these tables as they are now. Does not raise: what cannot be read is not known then."""
        for name in tables:
            self.images.pop(name, None)
            with contextlib.suppress(NfkeepError):
                self.images[name] = read_image(*name)


def _changed(table: str, family: Family) -> NfkeepError:
    return NfkeepError(f"somebody has changed the {family} rules of iptables, in {table}, meanwhile: call it again")
