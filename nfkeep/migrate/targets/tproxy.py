"""`-j TPROXY`: to a local socket, addresses unchanged (tproxy_tg4() in xt_TPROXY.c, nft_tproxy_eval_v4())."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.marks import changed, split_mark
from nfkeep.migrate.parts import Rows, Statement
from nfkeep.migrate.transport import protocol

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--on-port": 1, "--on-ip": 1, "--tproxy-mark": 1}


def translate(target: Extension, context: Context) -> Rows:
    """Where no socket takes the packet, iptables drops it; nft goes on to the next rule, which drops here.

    No address means that of the interface, no port means the packet's own, with both.
    """
    port, address, mark = (target.option(name) for name in OPTIONS)
    where = ipaddress.ip_address(address.value) if address else None
    to = "" if where is None or not int(where) else f"[{where}]" if context.v6 else str(where)
    to += f":{int(port.value, 0)}" if port and int(port.value, 0) else ""
    if not to:
        raise Lost("nft wants an address or a port", "name the port")
    marked = changed("meta mark", *split_mark(mark.value)) if mark else None
    statements = [f"tproxy to {to}", *([f"meta mark set {marked}"] if marked else []), "accept"]
    return Rows(((protocol(context), *map(Statement, statements)), (Statement("drop"),)))
