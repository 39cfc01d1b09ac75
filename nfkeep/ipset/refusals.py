"""What the kernel's error numbers mean when ipset answers with them: one table, from which every error is made.

The numbers from 4097 on are ipset's own: IPSET_ERR_* in linux/netfilter/ipset/ip_set.h and ip_set_hash.h.
"""

from __future__ import annotations

import enum
import errno
import os

from nfkeep.errors import CommitError, NfkeepError, PermissionDeniedError, UnsupportedError


class Refused(enum.IntEnum):
    """The numbers that something depends on here."""

    PROTOCOL = 4097
    FIND_TYPE = 4098
    MAX_SETS = 4099
    BUSY = 4100
    NO_SECOND = 4101
    EXISTS = 4103
    FULL = 4352
    ZERO = 4353


_WORDS = {
    errno.ENOENT: "there is no such set",
    errno.EEXIST: "there is a set of that name",
    errno.EBUSY: "another program is listing the set",
    errno.ENOBUFS: "the kernel's answers did not fit into the socket's buffer",
    Refused.PROTOCOL: "ipset does not take the message",
    Refused.FIND_TYPE: "the kernel has no such type of set, or not in this revision",
    Refused.MAX_SETS: "there is no room for another set",
    Refused.BUSY: "a rule uses the set, or another program is listing it",
    Refused.NO_SECOND: "there is no second set",
    4102: "the two sets are of different types",
    Refused.EXISTS: "the element is there already, or not there to be deleted",
    4104: "the prefix is not one that the set can hold",
    4105: "the netmask is not one that the set can hold",
    4106: "the family is not one that the set can hold",
    4107: "elements of this set cannot have a timeout",
    4108: "a rule refers to the set",
    4109: "the set holds no IPv4 addresses",
    4110: "the set holds no IPv6 addresses",
    4111: "elements of this set have no counters",
    4112: "elements of this set cannot have a comment",
    4113: "the mark mask is not one that the set can hold",
    4114: "elements of this set have no packet marks",
    4115: "a set has a netmask or a bit mask, not both",
    Refused.FULL: "the set is full",
    Refused.ZERO: "the set cannot hold the address that is all zeros",
    4354: "the set does not know the protocol",
    4355: "the set wants a protocol",
    4356: "the set takes no ranges",
    4357: "the set does not take this range",
}


def refusal(number: int, doing: str) -> NfkeepError:
    """The error to raise for an error number of the kernel's (positive).

    PermissionDeniedError, UnsupportedError where the kernel has no ipset or not that type of set, else CommitError with
    the number: ENOENT where there is no such set.
    """
    if number in (errno.EPERM, errno.EACCES):
        return PermissionDeniedError(doing, "root, or the capability CAP_NET_ADMIN")
    words = f"{doing}: {describe(number)}"
    if number == errno.EOPNOTSUPP:
        return UnsupportedError(f"{words}: the kernel has no ipset (CONFIG_IP_SET)", "ipset")
    if number == Refused.FIND_TYPE:
        return UnsupportedError(words, "ipset: type of set")
    return CommitError(words, applied=False, errno=number)


def concerns_all(number: int) -> bool:
    """Whether what is wrong is not the one element: no room, no set, no right, no memory, or the message as such."""
    return number < Refused.PROTOCOL or number in (Refused.FULL, Refused.PROTOCOL)


def describe(number: int) -> str:
    """An error number in words."""
    if number in _WORDS:
        return _WORDS[number]
    return f"ipset's error {number}" if number >= 4096 else os.strerror(number)
