"""`-m owner`: whose socket the packet comes from (owner_mt() in xt_owner.c).

Where there is no socket, or one that no file stands for, each option counts as not fulfilled, so that its negation
holds; nft breaks off there (nft_meta_get_eval_skugid() in nft_meta.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import NEVER, NoneOf, Test
from nfkeep.migrate.values import number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {"--uid-owner": 1, "--gid-owner": 1, "--socket-exists": 0, "--suppl-groups": 0}
_MOST = (1 << 32) - 2


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each id. An id asked for implies the socket."""
    if match.option("--suppl-groups"):
        raise Lost("nft does not know the supplementary groups of a socket", "name the users, or the main group")
    ids = [option for option in match.options if option.name in ("--uid-owner", "--gid-owner")]
    implied = any(not option.negated for option in ids)
    exists = match.option("--socket-exists")
    if exists is not None and not implied:
        raise Lost("nft cannot tell whether a packet comes from a socket", "ask for its user instead")
    if exists is not None and exists.negated:
        return (NEVER,)
    return tuple(map(_test, ids))


def _test(option: Option) -> Part:
    text = option.value if option.value[:1].isdecimal() else str(_number(option))
    low, high = number_range(text, _MOST, "-")
    if low > high:
        raise ValueError(option.value)
    left = "meta skuid" if option.name == "--uid-owner" else "meta skgid"
    test = Test(left, (str(low) if low == high else f"{low}-{high}",))
    return NoneOf(((test,),)) if option.negated else test


def _number(option: Option) -> int:
    """The id of a user or group of this host, as iptables-restore would look it up."""
    import grp
    import pwd

    try:
        return pwd.getpwnam(option.value).pw_uid if option.name == "--uid-owner" else grp.getgrnam(option.value).gr_gid
    except KeyError:
        raise Lost(f"{option.value!r} is not known here", "write the number") from None
