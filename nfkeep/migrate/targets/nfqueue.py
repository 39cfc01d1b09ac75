"""`-j NFQUEUE`: a program decides (nfqueue_tg_v3() in xt_NFQUEUE.c, nft_queue_eval(): both use nfqueue_hash())."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--queue-num": 1, "--queue-balance": 1, "--queue-bypass": 0, "--queue-cpu-fanout": 0}
_FLAGS = {"--queue-bypass": "bypass", "--queue-cpu-fanout": "fanout"}
_MOST = 65535


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement, the last one."""
    option = target.option("--queue-num", "--queue-balance")
    numbers = [int(each, 0) for each in option.value.split(":")] if option else [0]
    if any(not 0 <= each <= _MOST for each in numbers) or sorted(numbers) != numbers:
        raise Lost("these are no numbers of queues")
    flags = ",".join(_FLAGS[each.name] for each in target.options if each.name in _FLAGS)
    return (Statement(f"queue {f'flags {flags} ' if flags else ''}to {'-'.join(map(str, numbers))}"),)
