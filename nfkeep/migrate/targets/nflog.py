"""`-j NFLOG`: the packet to a program that listens (nflog_tg() in xt_NFLOG.c, nft_log_eval())."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.logs import prefix_words
from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {
    "--nflog-prefix": 1, "--nflog-group": 1, "--nflog-range": 1, "--nflog-size": 1, "--nflog-threshold": 1,
}  # fmt: skip


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement. The kernel takes no notice of a range, only of a size (XT_NFLOG_F_COPY_LEN)."""
    group, size, threshold = (target.option(f"--nflog-{name}") for name in ("group", "size", "threshold"))
    words = ["log", *prefix_words(target.option("--nflog-prefix"), target, context)]
    words.append(f"group {int(group.value, 0) if group else 0}")
    words += [f"snaplen {int(size.value, 0)}"] if size else []
    words += [f"queue-threshold {int(threshold.value, 0)}"] if threshold else []
    return (Statement(" ".join(words)),)
