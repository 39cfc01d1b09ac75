"""`-j AUDIT`: a record for auditd (audit_tg() in xt_AUDIT.c, nft_log_eval_audit(): word for word the same record)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--type": 1}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement. The type is in no record since Linux 4.13."""
    return (Statement("log level audit"),)
