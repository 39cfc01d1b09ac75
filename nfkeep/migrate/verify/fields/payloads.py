"""What is in a packet: strings, and words at offsets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nfkeep.migrate.verify.fields.choices import Choices, generates

if TYPE_CHECKING:
    from nfkeep.migrate.verify.fields.choices import Setting
    from nfkeep.migrate.verify.words import Word


@generates("--string", "--hex-string")
def string(word: Word, setting: Setting) -> Choices:
    """The string at the begin, behind something, in other case, cut short, not there."""
    text = word.value.encode()
    if word.name == "--hex-string":
        parts = re.split(rb"\|([^|]*)\|", text)
        text = b"".join(bytes.fromhex(part.decode()) if number % 2 else part for number, part in enumerate(parts))
    low, high = (int(setting.option("string", name, "0")) for name in ("--from", "--to"))
    ends = {edge + by for edge in (low, high, high - len(text)) for by in (-1, 0, 1)}
    # Offsets are counted from the IP header; how long the headers are depends on the rule.
    placed = [bytes(at - head) + text + b"." for at in sorted(ends) for head in (28, 40, 48, 60) if head <= at < 1300]
    holds = [text + b"....", bytes(40) + text, bytes(200) + text]
    fails = [text.swapcase() + b"....", text[:-1], bytes(64), *placed]
    return Choices(tuple({"payload": each} for each in holds), tuple({"payload": each} for each in fails))
