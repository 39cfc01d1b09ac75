"""What is used up of a quota is state, and no rule: on both sides of a comparison quotas begin whole.

iptables-restore begins them so, whatever the rule's counter says; the translation of a host's rules, and what nft lists
of its own, go on where they are.
"""

from __future__ import annotations

import re

_COUNTED = re.compile(r"^\[\d+:\d+\] (?=-A .*-m quota )", re.MULTILINE)
_USED = re.compile(r"(\d+ [kmg]?bytes) used \d+ [kmg]?bytes\b")  # quota_obj_print() in nft's rule.c, quota_expr_print()


def unused_rules(save_text: str) -> str:
    """The same rules; those with a quota have counted nothing."""
    return _COUNTED.sub("[0:0] ", save_text)


def unused_script(script: str) -> str:
    """The same script for nft; nothing of its quotas is used up."""
    return _USED.sub(r"\1", script)
