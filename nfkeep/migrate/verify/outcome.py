"""What a host did with one packet, in a form in which two hosts can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.model import Hook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.migrate.verify.host import Host
    from nfkeep.migrate.verify.observed import Seen


@attrs.frozen(slots=True)
class Outcome:
    """Everything that was seen, in order; empty if the packet was dropped before anything could be seen of it.

    Two outcomes are equal if the bytes are, but for what a host invents: the numbers of the packets that it makes.
    """

    seen: tuple[Seen, ...] = attrs.field(eq=lambda seen: tuple(map(_comparable, seen)))
    names: dict[int, str] = attrs.field(eq=False, repr=False)

    def __str__(self) -> str:
        from nfkeep.migrate.verify.observed import tell

        final = [each for each in self.seen if each.hook is not Hook.PREROUTING or each.prefix]
        if final:
            return "; ".join(tell(each, self.names) for each in final)
        return f"dropped ({tell(self.seen[-1], self.names)})" if self.seen else "dropped"


def compared(host: Host, seen: Sequence[Seen]) -> Outcome:
    """The outcome for what was seen on a host."""
    return Outcome(tuple(seen), host.names)


def _comparable(seen: Seen) -> tuple[object, ...]:
    data = seen.data
    if seen.hook is Hook.POSTROUTING and not seen.enters and len(data) >= 20 and data[0] >> 4 == 4:
        data = data[:4] + b"\0\0" + data[6:10] + b"\0\0" + data[12:]  # the number, and the checksum with it
    return seen.hook, seen.enters, seen.leaves, data, seen.mark, seen.connmark, seen.conditions, seen.prefix, seen.group
