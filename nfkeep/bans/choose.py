"""Which backend a list gets: the one that has it already, or else the cheapest that this kernel has."""

from __future__ import annotations

from collections.abc import Callable

from nfkeep.bans.backend import Backend
from nfkeep.errors import InvalidListError, NfkeepError, PermissionDeniedError, UnsupportedError

BACKENDS = ("auto", "nft", "ipset", "recent")


def choose(name: str, backend: str) -> tuple[Backend, str]:
    """The backend for a list, and in a sentence why it is this one.

    Raises InvalidListError for a backend that does not exist, PermissionDeniedError, UnsupportedError if there is none.
    """
    if backend in _MAKE:
        return _MAKE[backend](name), "as asked for"
    if backend != "auto":
        raise InvalidListError(f"there is no backend {backend!r:.40}; there are {', '.join(BACKENDS)}")
    usable: list[tuple[Backend, str]] = []
    lacking: list[str] = []
    for kind, why in _WHY.items():
        made = _MAKE[kind](name)
        try:
            if made.exists():
                return made, f"a list of this name is there in {kind}"
        except PermissionDeniedError:
            raise
        except NfkeepError as error:
            lacking.append(f"{kind}: {error}")
            continue
        usable.append((made, "; ".join([why, *lacking])))
    if not usable:
        raise UnsupportedError(f"nothing here can keep a ban list: {'; '.join(lacking)}", "ban lists")
    return usable[0]


def _nft(name: str) -> Backend:
    from nfkeep.bans.nft_backend import NftBackend

    return NftBackend(name)


def _ipset(name: str) -> Backend:
    from nfkeep.bans.ipset_backend import IpsetBackend

    return IpsetBackend(name)


def _recent(name: str) -> Backend:
    from nfkeep.bans.recent_backend import RecentBackend

    return RecentBackend(name)


_MAKE: dict[str, Callable[[str], Backend]] = {"nft": _nft, "ipset": _ipset, "recent": _recent}
_WHY = {
    "nft": "this kernel has nf_tables, whose sets take hosts, networks, timeouts and comments",
    "ipset": "this kernel has no nf_tables, but ipset",
    "recent": "this kernel has neither nf_tables nor ipset, but xt_recent",
}
