"""What a translation cannot say, or can say only nearly."""

from __future__ import annotations

import attrs

from nfkeep.errors import NfkeepError
from nfkeep.keep.report import Fidelity


@attrs.frozen(slots=True)
class Loss:
    """One rule that nft does not get (`lost`), or gets with an error that `reason` states (`approximated`).

    `line` and `rule` are those of the source; `part` is what it is about; `advice` says what to do.
    """

    line: int
    rule: str
    part: str
    reason: str
    advice: str
    fidelity: Fidelity = Fidelity.LOST

    def __str__(self) -> str:
        text = f"line {self.line}: {self.part}: {self.fidelity}: {self.reason}"
        return f"{text}; {self.advice}" if self.advice else text


class Lost(NfkeepError):
    """Raised by a translator: this cannot be expressed. Within the package; `translate` makes a Loss of it."""

    def __init__(self, reason: str, advice: str = "", part: str = "") -> None:
        self.reason = reason
        self.advice = advice
        self.part = part
        super().__init__(reason)
