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
_WHOLE = Test("socket wildcard", ("0", "1"))  # nft_meta_get_eval_cgroup() takes the listening one for a request


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test, and that the socket is the packet's own and a whole one."""
    (option,) = match.options
    anywhere = context.chain == "POSTROUTING" or (context.policy is None and context.table in ("mangle", "nat"))
    if option.name == "--path":
        if anywhere:
            raise Lost("nft cannot look at the socket in POSTROUTING", "move the rule to OUTPUT")
        return (_HAS_SOCKET, _path(option))
    test = Test("meta cgroup", (str(number_range(option.value, _MOST)[0]),), option.negated)
    if not anywhere:
        return (test, _WHOLE)
    context.approximate(match, "while a connection is being accepted, its packets count as the listening socket's")
    return (test,)


def _path(option: Option) -> Test:
    names = [name for name in option.value.split("/") if name]
    if any(name in (".", "..") or "*" in name for name in names):
        raise ValueError(option.value)
    path = quoted("/".join(names) or "/", "the path")
    return Test(f"socket cgroupv2 level {len(names)}", (path,), option.negated)
