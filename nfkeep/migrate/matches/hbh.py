"""`-m hbh`: the hop-by-hop options of IPv6 (hbh_mt6() in ip6t_hbh.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.header_length import length_test
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import Statement, Test

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--hbh-len": 1, "--hbh-opts": 1}
_FIRST = 42
"""Where the options begin: behind the header of IPv6 and two bytes of this one."""
_FARTHEST = 255  # nft_payload_policy in nft_payload.c
_ANY = 255
_PAD1 = 0


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option; without any the header has to be there only."""
    parts: list[Part] = []
    for option in match.options:
        if option.name == "--hbh-len":
            parts += length_test("hbh", option)
        else:
            context.approximate(
                f"-m hbh {option}", "a header that is not the first one, where none may be, does not match"
            )
            parts += _options(option.value)
    return tuple(parts) or (Statement("exthdr hbh exists"),)


def _options(listed: str) -> Iterator[Test]:
    """The options one behind the other from the first on, at offsets that the lengths before them tell.

    The header has to be as long as the type and the length of the last one need.
    """
    place, tests = _FIRST, []
    wanted = [_type_and_length(each) for each in listed.split(",")]
    for number, (kind, length) in enumerate(wanted, 1):
        last = number == len(wanted)
        if place + (kind != _PAD1) > _FARTHEST:
            raise Lost(f"nft sees no further than {_FARTHEST} bytes into a packet", "list fewer options")
        if length == _ANY and kind != _PAD1 and not last:
            raise Lost("nft cannot follow an option of any length", "give the lengths of all options but the last")
        tests.append(Test(f"@nh,{place * 8},8", (str(kind),)))
        if kind != _PAD1 and length != _ANY:
            tests.append(Test(f"@nh,{place * 8 + 8},8", (str(length),)))
        needed = place + (1 if kind == _PAD1 else 2) - 40
        place += 1 if kind == _PAD1 else length + 2
    yield Test("ip6 nexthdr", ("0",))
    if shortest := (needed + 7) // 8 - 1:
        yield Test("hbh hdrlength", (f"{shortest}-255",))
    yield from tests


def _type_and_length(text: str) -> tuple[int, int]:
    kind, given, length = text.partition(":")
    both = int(kind, 0), int(length, 0) if given else _ANY
    if not all(0 <= each <= 255 for each in both):
        raise ValueError(f"{text} is no option")
    return both
