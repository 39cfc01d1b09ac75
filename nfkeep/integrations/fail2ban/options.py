"""What a jail's parameters ask for: they arrive as strings, from jail.conf and whatever overrides it.

The names are those of fail2ban's own actions, as far as these have one, so that jails need not be rewritten.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import attrs

from nfkeep.bans.values import Rejection, Service, services
from nfkeep.errors import InvalidListError

__all__ = ["GRACE_SECONDS", "NAMES", "Options"]

GRACE_SECONDS = 60.0
"""How much longer than fail2ban the kernel keeps a ban, unless a jail says otherwise.

fail2ban lifts its bans itself; the kernel's timeout is for when it does not live to do so. It must not come first:
fail2ban prolongs a ban up to ten seconds after it was made (`bantime.increment`), and while it still lists an address,
new failures of that address are "already banned" to it.
"""

NAMES = frozenset(
    ("name", "list", "port", "protocol", "type", "chain", "backend", "blocktype", "kill", "allow", "grace", "check")
)
"""The parameters that there are."""


@attrs.frozen(slots=True)
class Options:
    """One jail's parameters, read. `unknown`: those that nothing here knows, as `name=value`.

    `check_seconds`: how often to look whether the list is still there, 0 for never.
    """

    name: str
    list_name: str
    ports: tuple[str, ...] = ()
    action: str = "drop"
    reject_with: str | None = None
    backend: str = "auto"
    kill: bool = False
    allow: tuple[str, ...] = ()
    grace_seconds: float = GRACE_SECONDS
    check_seconds: float = 10.0
    unknown: tuple[str, ...] = ()

    @classmethod
    def parse(cls, jail: str, parameters: Mapping[str, str]) -> Options:
        """Read the parameters of a jail; raises InvalidListError.

        Without `list` the list is `f2b-` and the jail's name (or `name`), and what a list's name cannot have is `_`.
        """
        # jail.conf hands on `chain = <known/chain>` as it stands, if no other chain is set
        given = {key: str(value) for key, value in parameters.items() if not str(value).startswith("<")}
        name = given.get("name") or jail
        action, reject_with = _blocktype(given.get("blocktype", "drop"))
        return cls(
            name,
            given.get("list") or f"f2b-{re.sub('[^A-Za-z0-9_.-]', '_', name)}"[:64],
            _ports(given.get("port", "0:65535"), given.get("protocol", "tcp"), given.get("type", "multiport")),
            action,
            reject_with,
            given.get("backend", "auto").lower(),
            _is_yes("kill", given.get("kill", "no")),
            tuple(_words(given.get("allow", ""))),
            _seconds("grace", given.get("grace", ""), GRACE_SECONDS),
            _seconds("check", given.get("check", ""), 10.0),
            tuple(f"{key}={value}" for key, value in parameters.items() if key not in NAMES),
        )


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _ports(port: str, protocol: str, kind: str) -> tuple[str, ...]:
    """As BanList takes them; none stand for every packet."""
    if kind not in ("multiport", "oneport", "allports"):
        raise InvalidListError(f"type is {kind!r:.40}; there are multiport (which is the default) and allports")
    words = ["0-65535"] if kind == "allports" else [word.replace(":", "-") for word in _words(port)]
    protocols = _words(protocol.lower().replace("ipv6-icmp", "icmpv6"))
    if not protocols or "all" in protocols:
        return () if "0-65535" in words else _merged(services(words))
    found: set[Service] = set()
    for each in protocols:
        if each in _WITHOUT_PORTS:
            found.update(services([each]))
        else:  # a name is looked up first: `ssh` is no service of UDP to the system, but jails mean its number
            found.update(services(f"{named.low}-{named.high}/{each}" for named in services(words)))
    return _merged(found)


def _merged(found: Iterable[Service]) -> tuple[str, ...]:
    """In words, with ports that follow each other as a range: a list of single ones soon is too long for the kernel."""
    merged: list[Service] = []
    for service in sorted(set(found)):
        last = merged[-1] if merged else None
        if last and last.protocol == service.protocol and service.low <= last.high + 1:
            merged[-1] = attrs.evolve(last, high=max(last.high, service.high))
        else:
            merged.append(service)
    return tuple(_text(service) for service in merged)


_WITHOUT_PORTS = ("icmp", "icmpv6", "esp", "ah", "gre")


def _text(service: Service) -> str:
    """As BanList reads it, for which a protocol that has ports is nothing without them."""
    text = str(service)
    return text if "/" in text or text in _WITHOUT_PORTS else f"0-65535/{text}"


def _blocktype(text: str) -> tuple[str, str | None]:
    """Action and answer, from what blocktype is for nftables, for iptables, or here."""
    words = text.lower().split() or ["drop"]
    if words[0] in ("drop", "count"):
        return words[0], None
    if words[0] == "reject":
        if len(words) == 1:
            return "reject", None
        answer = "tcp-reset" if words[-2:] == ["tcp", "reset"] else words[-1]
        answer = re.sub("^icmp6?-", "", answer).replace("adm-prohibited", "admin-prohibited")
        if answer in {each.value for each in Rejection}:
            return "reject", answer
    raise InvalidListError(f"blocktype is {text!r:.80}; a ban list can drop, reject (with an answer) or count")


def _is_yes(name: str, text: str) -> bool:
    if text.lower() in ("yes", "true", "on", "1"):
        return True
    if text.lower() in ("no", "false", "off", "0", ""):
        return False
    raise InvalidListError(f"{name} is {text!r:.40}; it can be yes or no")


def _seconds(name: str, text: str, otherwise: float) -> float:
    try:
        seconds = float(text) if text else otherwise
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InvalidListError(f"{name} is {text!r:.40}; it is a number of seconds, 0 or more")
    return seconds
