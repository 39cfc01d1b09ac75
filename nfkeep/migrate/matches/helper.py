"""`-m helper`: the connection was expected by a helper of another one (helper_mt() in xt_helper.c).

The kernel compares as many characters as the helper's name has: `--helper ftp-2121` is also true of the helper `ftp`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.names import quoted
from nfkeep.migrate.parts import NoneOf, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--helper": 1}
_LONGEST = 15  # NF_CT_HELPER_NAME_LEN, with its end
_NO_HELPER = "-"  # what no helper is called, to ask whether there is one


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """Whether the helper's name is a beginning of the one asked for; with "", whether there is a helper."""
    parts: list[Part] = []
    for option in match.options:
        name = option.value
        if "*" in name:  # it stands for anything at the end of nft's text
            raise Lost(f"nft cannot ask for the helper {name!r}")
        beginnings = tuple(quoted(name[:end], "the helper") for end in range(1, min(len(name), _LONGEST) + 1))
        test = Test("ct helper", beginnings) if name else Test("ct helper", (f'"{_NO_HELPER}"',), negated=True)
        parts.append(NoneOf(((test,),)) if option.negated else test)
    return tuple(parts)
