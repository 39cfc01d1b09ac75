"""The ban list of a jail: opened as its parameters say, and filled with bans that end when fail2ban says, or after.

Used inside fail2ban by the Python action, and outside by the commands.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import attrs

from nfkeep import Ban, BanList
from nfkeep.errors import AllowedAddressError, ListGoneError, RefusedBansError, UnsupportedError
from nfkeep.integrations.fail2ban.options import Options

__all__ = ["JailList", "left_seconds"]

_LONGEST_IN_RECENT = 40 * 86400.0
"""In seconds; xt_recent counts ticks in 32 bits, which a thousand a second fill in 49 days."""


@attrs.frozen(slots=True)
class JailList:
    """A list and the parameters that it was opened with. Methods raise as those of BanList do."""

    options: Options
    bans: BanList

    @classmethod
    def open(cls, options: Options, longest_seconds: float = math.inf) -> JailList:
        """Make or adopt the list of a jail whose longest ban is `longest_seconds`, and have it do what is asked for."""
        timeout = None
        if longest_seconds < _LONGEST_IN_RECENT:  # for xt_recent, which has one timeout for all
            timeout = max(longest_seconds, 1.0) + options.grace_seconds
        bans = BanList(
            options.list_name,
            _backend(options),
            ports=options.ports,
            action=options.action,
            reject_with=options.reject_with,
            kill=options.kill,
            timeout=timeout,
            allow=options.allow,
        )
        return cls(options, bans.open())

    @classmethod
    def adopt(cls, options: Options) -> JailList:
        """Adopt a list that is there, and goes on with what it does: the options only say its name and where it is.

        Raises ListGoneError if it is not there.
        """
        bans = BanList(options.list_name, _backend(options))
        if not bans.exists():
            raise ListGoneError(options.list_name)
        return cls(options, bans.open())

    def kernel_seconds(self, left_seconds: float) -> float | None:
        """The timeout of a ban of which so much is left; None is that of the list."""
        if self.bans.backend == "recent":
            return None
        return max(left_seconds, 0.0) + self.options.grace_seconds

    def in_force(self) -> bool:
        """Whether the list and all its rules are there."""
        try:
            return self.bans.in_force()
        except ListGoneError:
            return False

    def put(self, banned: Mapping[str, float], log: logging.Logger) -> int:
        """Put bans in force, all at once, or renew them; how many. What is refused is logged, with the reason."""
        timed = [(address, self.kernel_seconds(left)) for address, left in banned.items()]
        try:
            return self.bans.ban_many(
                [address if seconds is None else (address, seconds) for address, seconds in timed]
            )
        except RefusedBansError as error:
            for _, why in error.refused:
                log.log(_log_level(why), "[%s] %s", self.options.name, why)
            return error.banned


def _backend(options: Options) -> str:
    """It is nft wherever the kernel has that: an xt_recent list with the name of ours is an older set-up's."""
    if options.backend == "auto":
        try:
            BanList(options.list_name, "nft").exists()
            return "nft"
        except UnsupportedError:
            pass
    return options.backend


def left_seconds(ban: Ban) -> float:
    """What is left of a ban; math.inf is for ever."""
    return math.inf if ban.expires is None else ban.expires


def _log_level(error: Exception) -> int:
    """How loud to be about a ban that was refused: what the operator has asked for is no error."""
    return logging.INFO if isinstance(error, AllowedAddressError) else logging.ERROR
