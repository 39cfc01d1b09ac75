"""What ban lists are made of, as frozen values: kinds of address, bans, what a list does to whom it bans. No I/O."""

from __future__ import annotations

import enum
import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import TypeAlias

import attrs

from nfkeep.errors import InvalidListError
from nfkeep.model import Family

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network
"""A host or a network."""


class Kind(enum.IntEnum):
    """The four sorts of address; each list has a set for each. The numbers are those of csrc/nft_api.h.

    The key of a host is its address; that of a network its address and then its netmask.
    """

    HOST4 = 0
    HOST6 = 1
    NET4 = 2
    NET6 = 3

    @property
    def family(self) -> Family:
        """The family of the address."""
        return Family.IPV6 if self & 1 else Family.IPV4

    @property
    def is_network(self) -> bool:
        """Whether keys have a netmask."""
        return self >= 2

    @property
    def key_bytes(self) -> int:
        """The length of a key: 4, 16, 8 or 32."""
        return (16 if self & 1 else 4) * (2 if self >= 2 else 1)


def address_of(kind: Kind, key: bytes) -> Address:
    """The address that a key stands for."""
    if kind is Kind.HOST4:
        return ipaddress.IPv4Address(key)
    if kind is Kind.HOST6:
        return ipaddress.IPv6Address(key)
    half = len(key) // 2
    prefix = int.from_bytes(key[half:], "big").bit_count()
    if kind is Kind.NET4:
        return ipaddress.IPv4Network((key[:half], prefix))
    return ipaddress.IPv6Network((key[:half], prefix))


@attrs.frozen(slots=True)
class Ban:
    """One entry of a list.

    `timeout`: for how many seconds it was banned, None for ever. `expires`: in how many seconds it ends, None never.
    """

    address: Address
    timeout: float | None = None
    expires: float | None = None
    comment: str = ""


@attrs.frozen(slots=True)
class Element:
    """What a backend found under a key; times in milliseconds, 0 is for ever."""

    key: bytes
    timeout_ms: int = 0
    expires_ms: int = 0
    comment: str = ""


@attrs.frozen(slots=True)
class Fill:
    """How full one kernel object of a list is: its name, its elements, and how many it can take."""

    name: str
    used: int
    size: int


class Action(enum.Enum):
    """What happens to a packet from a banned address."""

    DROP = "drop"
    REJECT = "reject"
    COUNT = "count"


class Rejection(enum.Enum):
    """What a rejected packet is answered with, in nft's words; TCP_RESET is for TCP, the rest gets the first."""

    PORT_UNREACHABLE = "port-unreachable"
    HOST_UNREACHABLE = "host-unreachable"
    ADMIN_PROHIBITED = "admin-prohibited"
    NO_ROUTE = "no-route"
    TCP_RESET = "tcp-reset"


@attrs.frozen(slots=True, order=True)
class Service:
    """A protocol, by number, and of those with ports a range of them, both ends included; 0-65535 is all."""

    protocol: int
    low: int = 0
    high: int = 65535

    def __str__(self) -> str:
        name = _NAMES.get(self.protocol, str(self.protocol))
        if (self.low, self.high) == (0, 65535):
            return name
        return f"{self.low}/{name}" if self.low == self.high else f"{self.low}-{self.high}/{name}"


def services(words: Iterable[str]) -> tuple[Service, ...]:
    """The services that words like `22/tcp`, `http`, `1000-2000/udp`, `53`, `icmp` name, sorted, none twice.

    A port without a protocol is that of TCP and of UDP. Raises InvalidListError.
    """
    if isinstance(words, str):
        words = words.replace(",", " ").split()
    return tuple(sorted({service for word in words for service in _service(word)}))


@attrs.frozen(slots=True)
class Policy:
    """What a list does, to packets of which services (none given: all), and whether live connections are cut.

    `kill`: a ban also deletes the conntrack entries that the banned host opened to these services.
    """

    action: Action = Action.DROP
    services: tuple[Service, ...] = ()
    rejection: Rejection = Rejection.PORT_UNREACHABLE
    kill: bool = False

    @classmethod
    def parse(cls, text: str) -> Policy:
        """The policy that `str(policy)` gave; raises InvalidListError."""
        words = text.split()
        kill = words[-1:] == ["kill"]
        head, _, rejection = words[0].partition(":") if words else ("", "", "")
        try:
            return cls(
                Action(head),
                services(words[1 : len(words) - kill]),
                Rejection(rejection) if rejection else Rejection.PORT_UNREACHABLE,
                kill,
            )
        except ValueError as error:
            raise InvalidListError(f"{text!r} is not what a ban list can do: {error}") from None

    def __str__(self) -> str:
        head = f"reject:{self.rejection.value}" if self.action is Action.REJECT else self.action.value
        return " ".join([head, *map(str, self.services), *(["kill"] if self.kill else [])])


def check_name(name: str, longest: int) -> None:
    """Raise InvalidListError unless `name` is one for a list: letters, digits, `_`, `.` and `-`, at most `longest`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidListError(
            f"{name!r:.80} cannot name a ban list: only letters, digits, '_', '.' and '-', the first a letter or digit"
        )
    if len(name) > longest:
        raise InvalidListError(f"the name {name!r:.80} has {len(name)} characters, more than {longest}")


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NAMES = {
    socket.IPPROTO_TCP: "tcp",
    socket.IPPROTO_UDP: "udp",
    socket.IPPROTO_ICMP: "icmp",
    socket.IPPROTO_ICMPV6: "icmpv6",
    132: "sctp",
    33: "dccp",
    136: "udplite",
    socket.IPPROTO_ESP: "esp",
    socket.IPPROTO_AH: "ah",
    socket.IPPROTO_GRE: "gre",
}
_NUMBERS = {name: number for number, name in _NAMES.items()}
_WITH_PORTS = {6, 17, 132, 33, 136}


def _service(word: str) -> Iterable[Service]:
    ports, slash, name = word.rpartition("/")
    if not slash and word.lower() in _NUMBERS:
        return [Service(_NUMBERS[word.lower()])]
    if not slash:
        return _either(word)
    protocol = _NUMBERS.get(name.lower())
    if protocol not in _WITH_PORTS:
        raise InvalidListError(f"{word!r:.80}: no protocol with ports is called {name!r:.40}")
    return [Service(protocol, *_range(ports, name.lower()))]


def _either(word: str) -> list[Service]:
    """The service over TCP and UDP, or over the one of them that its name is known for."""
    found, refused = [], []
    for number, protocol in ((6, "tcp"), (17, "udp")):
        try:
            found.append(Service(number, *_range(word, protocol)))
        except InvalidListError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    return found


def _range(text: str, protocol: str) -> tuple[int, int]:
    low, dash, high = text.replace(":", "-").partition("-")
    if not low.isdecimal() and "-" in text and not text[0].isdecimal():
        low, dash, high = text, "", ""  # a service whose name has a dash in it
    first = _port(low, protocol)
    last = _port(high, protocol) if dash else first
    if first > last:
        raise InvalidListError(f"the port range {text!r:.80} ends before it begins")
    return first, last


def _port(text: str, protocol: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 5:
        number = int(text)
    else:
        try:
            number = socket.getservbyname(text, protocol)
        except (OSError, ValueError, UnicodeError):
            raise InvalidListError(f"{text!r:.80} is no port, and no {protocol} service has that name") from None
    if not 0 <= number <= 65535:
        raise InvalidListError(f"there is no port {number}")
    return number
