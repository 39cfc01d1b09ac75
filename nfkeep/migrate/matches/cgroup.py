"""`-m cgroup`: the control group of the packet's socket (cgroup_mt_v2() in xt_cgroup.c), if it is a whole one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.names import quoted
from nfkeep.migrate.parts import Test
from nfkeep.migrate.values import number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {"--cgroup": 1, "--path": 1}
_MOST = (1 << 32) - 1
_HAS_SOCKET = Test("meta cgroup", (f"0-{_MOST}",))  # nft_socket.c would look for one that the packet has not


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test, for a path with the condition that the packet has its socket already."""
    parts: list[Part] = []
    for option in match.options:
        if option.name == "--path":
            parts += _path(option, context)
            continue
        parts.append(Test("meta cgroup", (str(number_range(option.value, _MOST)[0]),), option.negated))
        context.approximate(option, "the SYN-ACKs of a listening socket count as its own in nft, as nobody's before")
    return tuple(parts)


def _path(option: Option, context: Context) -> tuple[Part, ...]:
    if context.chain == "POSTROUTING" or (context.policy is None and context.table in ("mangle", "nat")):
        raise Lost("nft cannot look at the socket in POSTROUTING", "move the rule to OUTPUT")
    names = [name for name in option.value.split("/") if name]
    if any(name in (".", "..") for name in names):
        raise ValueError(option.value)
    path = quoted("/".join(names) or "/", "the path")
    return (_HAS_SOCKET, Test(f"socket cgroupv2 level {len(names)}", (path,), option.negated))
