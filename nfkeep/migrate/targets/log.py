"""`-j LOG`: a line in the kernel's log (log_tg() in xt_LOG.c, nft_log_eval(): both call nf_log_packet())."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.logs import prefix_words
from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {
    "--log-prefix": 1, "--log-level": 1, "--log-tcp-sequence": 0, "--log-tcp-options": 0, "--log-ip-options": 0,
    "--log-uid": 0, "--log-macdecode": 0,
}  # fmt: skip
_LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
_FLAGS = {
    "--log-tcp-sequence": "tcp sequence", "--log-tcp-options": "tcp options", "--log-ip-options": "ip options",
    "--log-uid": "skuid", "--log-macdecode": "ether",
}  # fmt: skip


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement. The level that neither says is warn, with both."""
    words = ["log", *prefix_words(target.option("--log-prefix"), target, context)]
    if level := target.option("--log-level"):
        words.append(f"level {_LEVELS[int(level.value, 0)]}")
    words += [f"flags {_FLAGS[option.name]}" for option in target.options if option.name in _FLAGS]
    return (Statement(" ".join(words)),)
