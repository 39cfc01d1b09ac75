"""The text before what is logged, as LOG and NFLOG have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension, Option

_INSTEAD = {'"': "'", "$": "%"}


def prefix_words(option: Option | None, target: Extension, context: Context) -> list[str]:
    """`prefix "TEXT"`, or nothing.

    Between nft's quotes there can be no quote; a dollar begins a variable, and nothing escapes either.
    """
    if option is None or not option.value:
        return []
    text = "".join(_INSTEAD.get(c, c if c.isprintable() else "?") for c in option.value)
    if text != option.value:
        context.approximate(
            f"-j {target}",
            f"the prefix becomes {text!r}, for nft cannot write quotes, dollars and control characters in it",
            "programs that read the log have to look for the new one",
        )
    return [f'prefix "{text}"']
