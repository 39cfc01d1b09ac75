"""A table of -m hashlimit as a set of nft whose elements have limits of their own (xt_hashlimit.c, nft_limit.c)."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.rates import nft_rate, rate_and_unit, unit_seconds

if TYPE_CHECKING:
    from nfkeep.migrate.rule import Extension
    from nfkeep.migrate.survey import Survey
    from nfkeep.nft import ruleset

MODES = ("srcip", "dstip", "srcport", "dstport")
_SCALE = 1_000_000  # XT_HASHLIMIT_SCALE_v2
_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1
_CREDITS_OF_PACKETS = 137_438_953
"""In user2credits(): what a millionth of a second is worth, with HZ of 250 or 1000; a large burst of a slow rate
overflows with it, and is smaller than it says."""

_CREDITS = 4_194_304_000  # HZ * CREDITS_PER_JIFFY_BYTES, with HZ of 250 or 1000
_FACTORS = {"k": 1024, "m": 1024 * 1024}
_RATE = re.compile(r"(\d+)(?: bytes)?/(\w+)(?: burst (\d+) (?:packets|bytes))?")
_SHORTEST_GC = 1000
_LARGEST_TABLE = 1_048_576  # HASHLIMIT_MAX_SIZE
_BUCKETS = 8192  # htable_create() with a gigabyte of memory or more


@attrs.frozen(slots=True)
class Limit:
    """What all rules of one name have in common: whatever they say, the kernel takes it from the first one loaded."""

    mode: frozenset[str]
    rate: str
    """As nft has it: `3/minute burst 5 packets`."""

    seconds_to_refill: float
    expire: int
    gc_interval: int
    """Both in milliseconds."""

    size: int
    source_length: int
    target_length: int

    @property
    def in_bytes(self) -> bool:
        """Whether it counts bytes."""
        return "bytes/" in self.rate

    def in_nft(self, *, over: bool) -> ruleset.Limit:
        """The limit as nft's kernel has it."""
        from nfkeep.nft import ruleset  # not by those who have no such table

        found = _RATE.fullmatch(self.rate)
        assert found is not None, "it is written here"
        return ruleset.Limit(int(found[1]), unit_seconds(found[2]), int(found[3] or 0), self.in_bytes, over)

    @property
    def uncertain(self) -> bool:
        """Whether it can be seen how soon the kernel's collector comes by that forgets a full bucket's key."""
        return self.gc_interval > _SHORTEST_GC and self.seconds_to_refill * 1000 > self.expire


@attrs.frozen(slots=True)
class Asked:
    """One match of hashlimit, read."""

    name: str
    above: bool
    limit: Limit

    @classmethod
    def of(cls, match: Extension, bits: int) -> Asked:
        """Read the options of a match, for addresses of so many bits."""
        if match.option("--hashlimit-rate-match", "--hashlimit-rate-interval"):
            raise Lost(
                "nft does not measure rates in intervals", "leave --hashlimit-rate-match out: a limit has a burst"
            )
        option, name = match.option("--hashlimit-above", "--hashlimit-upto"), match.option("--hashlimit-name")
        if option is None or name is None:
            raise Lost("--hashlimit-upto or --hashlimit-above and --hashlimit-name are needed")
        above = (option.name == "--hashlimit-above") != option.negated
        return cls(name.value, above, _limit(match, option.value, bits))

    @classmethod
    def every(cls, survey: Survey, name: str, bits: int) -> list[Asked]:
        """All matches of the name but those that are lost: that is said where their rules are translated."""
        found = []
        for match in survey.matches("hashlimit", "--hashlimit-name", name):
            with contextlib.suppress(Lost, ValueError):
                found.append(cls.of(match, bits))
        return found


def _limit(match: Extension, rate: str, bits: int) -> Limit:
    def value(name: str, default: int) -> int:
        option = match.option(f"--hashlimit-{name}")
        return int(option.value) if option else default

    burst = match.option("--hashlimit-burst")
    mode = match.option("--hashlimit-mode")
    wanted = frozenset(mode.value.replace("|", ",").split(",")) if mode else frozenset()
    if unknown := wanted - set(MODES):
        raise Lost(f"there is no mode {min(unknown)}")
    parse = _bytes if "b/s" in rate else _packets
    text, refill, expire = parse(rate, burst.value if burst else "")
    buckets = min(value("htable-size", _BUCKETS), _LARGEST_TABLE)
    most = min(value("htable-max", 0), _LARGEST_TABLE)
    return Limit(
        wanted,
        text,
        refill,
        value("htable-expire", expire),
        value("htable-gcinterval", _SHORTEST_GC),
        max(most, buckets) if most else 8 * buckets,
        value("srcmask", bits),
        value("dstmask", bits),
    )


def _packets(rate: str, burst: str) -> tuple[str, float, int]:
    """A rate of packets for nft, in how many seconds a bucket fills, and after how many milliseconds a key goes."""
    number, unit = rate_and_unit(rate)
    average = _SCALE * unit_seconds(unit) // number
    packets = int(burst or "5")
    cost = average * _CREDITS_OF_PACKETS & _U64
    credit = average * packets * _CREDITS_OF_PACKETS & _U64
    if not cost or credit < cost:
        raise Lost("the kernel refuses this rate with this burst")
    period = average / _SCALE
    text = f"{nft_rate(rate, period)} burst {credit // cost} packets"
    return text, period * (credit // cost), unit_seconds(unit) * 1000


def _bytes(rate: str, burst: str) -> tuple[str, float, int]:
    """The same of bytes: the kernel's bucket has one second's rate, and is filled anew as often as the burst says."""
    cost = _U32 // ((_size(rate.removesuffix("/s")) >> 4) + 1)
    chunk = cost * _CREDITS >> 32  # user2credits_byte(): credits for 16 bytes
    if not chunk:
        raise Lost("the kernel refuses a rate as high as this")
    per_second = round(_CREDITS / chunk * 16)
    if not burst:
        return f"{per_second} bytes/second", 1.0, 15_000
    whole = ((_U32 // cost) - 1) << 4
    refills = -(-_size(burst) // whole) if whole else 0
    if refills * per_second > _U32:
        raise Lost("nft's bursts end at 4 GB")
    return f"{per_second} bytes/second burst {refills * per_second} bytes", 1.0 + refills, 60_000


def _size(text: str) -> int:
    """`20kb` in bytes."""
    digits = text.rstrip("b").rstrip("km")
    return int(digits) * _FACTORS.get(text[len(digits) : len(digits) + 1], 1)


def set_names(name: str) -> tuple[str, str]:
    """The set of all keys, and that of their limits: to ask the latter for a key would use it up.

    Not yet as nft can read them (nfkeep.migrate.names.identifier).
    """
    return f"hashlimit-{name}-keys", f"hashlimit-{name}-limits"


def packed_key(limit: Limit, addresses: tuple[bytes, bytes], ports: tuple[int, int]) -> bytes:
    """A key as the kernel has it in these sets: fields of four bytes or more (NFT_REG32_SIZE)."""
    lengths = ("srcip", limit.source_length), ("dstip", limit.target_length)
    fields = [
        address for (mode, length), address in zip(lengths, addresses, strict=True) if mode in limit.mode and length
    ]
    named = zip(("srcport", "dstport"), ports, strict=True)
    fields += [port.to_bytes(2, "big") + bytes(2) for mode, port in named if mode in limit.mode]
    return b"".join(fields) or bytes(len(addresses[0]))


def missing(limit: ruleset.Limit, credit: int, cap: int, cost: int, seconds: float) -> float:
    """Packets, or bytes, that an entry of iptables had too little for a full bucket, less what has come since.

    For bytes `cap` is how many times it may be filled anew, which no time brings back (hashlimit_byte_cost()).
    """
    if not limit.in_bytes:
        return max(0.0, (cap - credit) / cost - seconds * limit.rate / limit.unit_seconds)
    refills = limit.burst // limit.rate - cap
    return limit.rate * (max(0, refills) + max(0.0, 1 - credit / _CREDITS - seconds))


def key_of(limit: Limit, ip: str, ports: tuple[str, str]) -> str:
    """What tells buckets apart, for nft; `ports` is what to read as source and destination port."""
    return " . ".join(_fields(limit, ip, ports))


def type_of(limit: Limit, ip: str) -> str:
    """The same as the type of a set."""
    address = "ipv6_addr" if ip == "ip6" else "ipv4_addr"
    return " . ".join(
        "inet_service" if "port" in field else address for field in _fields(limit, ip, ("sport", "dport"))
    )


def _fields(limit: Limit, ip: str, ports: tuple[str, str]) -> list[str]:
    fields = []
    for mode, side, length in (("srcip", "saddr", limit.source_length), ("dstip", "daddr", limit.target_length)):
        if mode in limit.mode and length:
            mask = ipaddress.ip_network(f"{'::' if ip == 'ip6' else '0.0.0.0'}/{length}")
            whole = length == mask.max_prefixlen
            fields.append(f"{ip} {side}" if whole else f"{ip} {side} & {mask.netmask}")
    fields += [text for mode, text in zip(("srcport", "dstport"), ports, strict=True) if mode in limit.mode]
    return fields or [f"{ip} saddr & {'::' if ip == 'ip6' else '0.0.0.0'}"]
