"""Two namespaces with the same rules, one by iptables-legacy and one by their translation, that get the same packets.

Packets are UDP datagrams on `lo`: what a rule in OUTPUT drops, the kernel refuses to send. Any 127.x.y.z is an address.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import TYPE_CHECKING

from nfkeep import Family
from nfkeep.migrate import Translation, translate
from nfkeep.namespaces import Namespace

if TYPE_CHECKING:
    from typing_extensions import Self

_LEGACY = {Family.IPV4: "iptables-legacy-restore", Family.IPV6: "ip6tables-legacy-restore"}
_ANYWHERE = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}
_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}


class Twins:
    """Both namespaces; `rules` are those of the table filter, with or without `-A OUTPUT`."""

    def __init__(self, rules: list[str], family: Family = Family.IPV4, *, ipsets: str = "") -> None:
        self._family = family
        self._namespaces = (Namespace(), Namespace())
        self._sockets: dict[tuple[int, str], socket.socket] = {}
        text = filter_table(rules)
        self.translation: Translation = translate(text, family, ipsets=ipsets)
        legacy, nft = self._namespaces
        if ipsets:
            legacy.run(["ipset", "restore"], input=ipsets)
        legacy.run([_LEGACY[family]], input=text)
        nft.run(["nft", "-f", "-"], input=self.translation.script)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each in self._sockets.values():
            each.close()
        for namespace in self._namespaces:
            namespace.close()

    @property
    def legacy(self) -> Namespace:
        """The one with iptables."""
        return self._namespaces[0]

    @property
    def nft(self) -> Namespace:
        """The one with the translation."""
        return self._namespaces[1]

    def add_address(self, address: str) -> None:
        """Let packets come from an IPv6 address too."""
        for namespace in self._namespaces:
            namespace.run(["ip", "-6", "address", "add", f"{address}/128", "dev", "lo", "nodad"])

    def send(self, source: str, port: int = 9, *, size: int = 0, to: str = "") -> tuple[bool, bool]:
        """Send a datagram with `size` octets of payload in both; whether it could leave by iptables, and by nft."""
        passed = []
        for number in (0, 1):
            try:
                self._socket(number, source).sendto(bytes(size), (to or _ANYWHERE[self._family], port))
                passed.append(True)
            except PermissionError:
                passed.append(False)
        return passed[0], passed[1]

    def send_raw(self, source: str, protocol: int, payload: bytes, *, to: str = "") -> tuple[bool, bool]:
        """The same with a packet of another protocol, by its number."""
        passed = []
        kind = _FAMILIES[self._family]
        for namespace in self._namespaces:
            with namespace:
                raw = socket.socket(kind, socket.SOCK_RAW, protocol)
            with raw:
                raw.bind((source, 0))
                try:
                    raw.sendto(payload, (to or _ANYWHERE[self._family], 0))
                    passed.append(True)
                except PermissionError:
                    passed.append(False)
        return passed[0], passed[1]

    def _socket(self, number: int, source: str) -> socket.socket:
        known = self._sockets.get((number, source))
        if known is None:
            with self._namespaces[number]:
                known = socket.socket(_FAMILIES[self._family], socket.SOCK_DGRAM)
                known.bind((source, 7000))
            self._sockets[number, source] = known
        return known


def filter_table(rules: list[str]) -> str:
    """The text of iptables-save for the table filter with these rules."""
    lines = [rule if rule.startswith(("-A", "[", ":")) else f"-A OUTPUT {rule}" for rule in rules]
    chains = [line for line in lines if line.startswith(":")]
    rest = [line for line in lines if not line.startswith(":")]
    base = [":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"]
    return "\n".join(["*filter", *base, *chains, *rest, "COMMIT", ""])
