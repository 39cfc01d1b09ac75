"""`-m sctp`: ports and chunks of SCTP (xt_sctp.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.fragments import first_fragment
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import NEVER, AnyOf, NoneOf, Statement, Test
from nfkeep.migrate.ports import port_test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part, Simple
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {"--sport": 1, "--dport": 1, "--chunk-types": 2}
_HEADER = 12

_TYPES = {
    "DATA": 0, "INIT": 1, "INIT_ACK": 2, "SACK": 3, "HEARTBEAT": 4, "HEARTBEAT_ACK": 5, "ABORT": 6, "SHUTDOWN": 7,
    "SHUTDOWN_ACK": 8, "ERROR": 9, "COOKIE_ECHO": 10, "COOKIE_ACK": 11, "ECN_ECNE": 12, "ECN_CWR": 13,
    "SHUTDOWN_COMPLETE": 14, "I_DATA": 64, "ASCONF_ACK": 128, "RE_CONFIG": 130, "PAD": 132, "FORWARD_TSN": 192,
    "ASCONF": 193, "I_FORWARD_TSN": 194,
}  # fmt: skip
_NAMELESS = frozenset({"I_DATA", "RE_CONFIG", "PAD", "I_FORWARD_TSN"})  # for nft
_FLAGS = {"DATA": "EBUI", "I_DATA": "EBUI", "ABORT": "T", "SHUTDOWN_COMPLETE": "T"}  # from bit 0 upwards


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option."""
    parts = (part for option in match.options for part in _part(option, context))
    return (*first_fragment(context, _HEADER), *parts)


def _part(option: Option, context: Context) -> tuple[Part, ...]:
    if option.name != "--chunk-types":
        return port_test("sctp", option.name[2:], option.value, negated=option.negated)
    how, listed = option.values
    if listed in ("ALL", "NONE"):
        if (how, listed) == ("all", "ALL"):
            raise Lost("chunks of all 256 types in one packet cannot be demanded", "leave the rule out")
        always = listed == ("NONE" if how == "all" else "ALL")
        return () if always != option.negated else (NEVER,)
    chunks = {name: flags for name, _, flags in (each.partition(":") for each in listed.split(","))}
    if how == "only":
        context.approximate(
            f"-m sctp {option}", "behind the first chunk, types that have no name in nft are not seen to be others"
        )
        way = _only(chunks)
        return (NoneOf((way,)),) if option.negated else way
    if any(chunks.values()):
        context.approximate(f"-m sctp {option}", "of several chunks of one type only the first one's flags are seen")
    present = tuple(_present(name, flags) for name, flags in chunks.items())
    if how == "all":
        return (NoneOf((present,)),) if option.negated else present
    ways = tuple((each,) for each in present)
    return (NoneOf(ways) if option.negated else AnyOf(ways),)


def _present(name: str, flags: str) -> Simple:
    """That there is such a chunk (nft_exthdr_sctp_eval() in nft_exthdr.c), its flags set and not set as demanded."""
    if name in _NAMELESS:
        raise Lost(f"nft has no name for chunks of the type {name}", "decide on other types")
    if not flags:
        return Statement(f"sctp chunk {_nft_name(name)} exists")
    bits = {letter: 1 << _FLAGS[name].index(letter.upper()) for letter in flags}
    wanted = sum(bit for letter, bit in bits.items() if letter.isupper())
    return Test(f"sctp chunk {_nft_name(name)} flags & {sum(bits.values()):#x}", (f"{wanted:#x}",))


def _only(chunks: dict[str, str]) -> tuple[Simple, ...]:
    """That the first chunk is of these types, and no other that nft can name is there."""
    if any(chunks.values()):
        raise Lost("flags of chunks cannot be demanded together with `only`", "leave out the flags")
    types = tuple(str(_TYPES[name]) for name in chunks)
    others = (name for name in _TYPES if name not in chunks and name not in _NAMELESS)
    return (Test("@th,96,8", types), *(Statement(f"sctp chunk {_nft_name(name)} missing") for name in others))


def _nft_name(name: str) -> str:
    if name not in _TYPES:
        raise ValueError(f"there is no type {name}")
    return name.removeprefix("ECN_").lower().replace("_", "-")
