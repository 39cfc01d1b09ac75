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
    return Choices(
        ({"payload": text + b"...."}, {"payload": bytes(40) + text}, {"payload": bytes(200) + text}),
        ({"payload": text.swapcase() + b"...."}, {"payload": text[:-1]}, {"payload": bytes(64)}),
    )
