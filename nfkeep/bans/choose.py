"""Which backend a list gets: the one that has it already, or else the cheapest that this kernel has."""

from __future__ import annotations

from collections.abc import Callable

from nfkeep.bans.backend import Backend
from nfkeep.bans.discover import find
from nfkeep.bans.values import check_name
from nfkeep.errors import InvalidListError, NfkeepError, PermissionDeniedError, UnsupportedError

BACKENDS = ("auto", "nft", "ipset", "recent")


def choose(name: str, backend: str) -> tuple[Backend, str]:
    """The backend for a list in this network namespace, and in a sentence why it is this one.

    Raises InvalidListError for a backend that does not exist, for a name that is too long for it, and where another
    backend's list of that name has the chains that this one would need; PermissionDeniedError; UnsupportedError if
    nothing here can keep a list.
    """
    if backend in _MAKE:
        made = _MAKE[backend](name)
        check_name(name, made.limits.name_length)
        rival = _RIVALS.get(backend)
        if rival is not None and find(name, rival) is not None:
            raise InvalidListError(
                f"there is a ban list {name} in {rival} already, and both would have the same chains"
            )
        return made, "as asked for"
    if backend != "auto":
        raise InvalidListError(f"there is no backend {backend!r:.40}; there are {', '.join(BACKENDS)}")
    found = find(name)
    if found is not None:
        return _MAKE[found.backend](name), f"a list of this name is there in {found.backend}"
    lacking: list[str] = []
    for kind, why in _WHY.items():
        made = _MAKE[kind](name)
        if len(name) > made.limits.name_length:
            lacking.append(f"{kind}: a name has {made.limits.name_length} characters at most")
            continue
        try:
            made.exists()  # or the error of a kernel that has no such thing
        except PermissionDeniedError:
            raise
        except NfkeepError as error:
            lacking.append(f"{kind}: {error}")
            continue
        return made, "; ".join([why, *lacking])
    raise UnsupportedError(f"nothing here can keep a ban list: {'; '.join(lacking)}", "ban lists")


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
_RIVALS = {"ipset": "recent", "recent": "ipset"}
_WHY = {
    "nft": "this kernel has nf_tables, whose sets take hosts, networks, timeouts and comments",
    "ipset": "this kernel has no nf_tables, but ipset",
    "recent": "this kernel has neither nf_tables nor ipset, but xt_recent",
}
