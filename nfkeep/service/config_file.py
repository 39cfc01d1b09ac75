"""Reads the configuration file, strictly: a misspelt limit is an error, and not no limit.

An ini file with one section [nfkeepd] and a section [list NAME] for each list; docs/service.md says what they hold.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Callable
from typing import Any, TypeVar

from nfkeep.bans.choose import BACKENDS
from nfkeep.bans.values import Action, Rejection
from nfkeep.errors import NfkeepError
from nfkeep.service import words
from nfkeep.service.config import Config, ListConfig

Section = TypeVar("Section")


class InvalidConfigError(NfkeepError, ValueError):
    """A configuration that cannot be served. `file`, `section` and `key` ("" if it is not one), `reason`."""

    def __init__(self, file: str, section: str, key: str, reason: str) -> None:
        self.file = file
        self.section = section
        self.key = key
        self.reason = reason
        where = "".join([f": [{section}]" if section else "", f" {key}" if key else ""])
        super().__init__(f"{file}{where}: {reason}")


def load(file: str | os.PathLike[str]) -> Config:
    """The configuration in a file; raises InvalidConfigError, which names file, section and key."""
    name = os.fspath(file)
    parser = configparser.ConfigParser(
        delimiters=("=",), interpolation=None, default_section="", empty_lines_in_values=False
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys are lower case, and nothing else
    try:
        with open(file, encoding="utf-8") as lines:
            parser.read_file(lines, name)
    except OSError as error:
        raise InvalidConfigError(name, "", "", f"it cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidConfigError(name, "", "", "it is not UTF-8") from None
    except configparser.Error as error:
        raise InvalidConfigError(name, "", "", " ".join(str(error).split())) from None
    lists = []
    for section in parser.sections():
        if section.startswith("list "):
            lists.append(_read_list(name, section, parser[section]))
        elif section != "nfkeepd":
            raise InvalidConfigError(name, section, "", "there is no such section; there are [nfkeepd] and [list NAME]")
    if not lists:
        raise InvalidConfigError(name, "", "", "it has no section [list NAME], so there is nothing to serve")
    given = parser["nfkeepd"] if parser.has_section("nfkeepd") else {}
    return _read(Config, name, "nfkeepd", given, _SERVICE, lists=tuple(lists))


_SERVICE: dict[str, Callable[[str], object]] = {
    "socket": words.path,
    "group": words.group,
    "max_connections": words.whole(1, 100_000),
    "max_connections_per_user": words.whole(1, 100_000),
    "idle_timeout": words.seconds,
    "max_line": words.whole(1024, 1 << 20),
    "rate": words.rate,
}
_LIST: dict[str, Callable[[str], object]] = {
    "backend": words.one_of(*BACKENDS),
    "ports": words.words,
    "action": words.one_of(*(each.value for each in Action)),
    "reject_with": words.one_of(*(each.value for each in Rejection)),
    "kill": words.truth,
    "timeout": words.lasting,
    "max_timeout": words.lasting,
    "allow": words.addresses,
    "users": words.users,
    "groups": words.groups,
    "operations": words.operations,
    "rate": words.rate,
    "max_entries": words.whole(1, 1 << 24),
}


def _read(
    kind: Callable[..., Section],
    file: str,
    section: str,
    given: Any,
    readers: dict[str, Callable[[str], object]],
    **more: object,
) -> Section:
    values = {}
    for key, text in given.items():
        if key not in readers:
            raise InvalidConfigError(file, section, key, f"there is no such key; there are {', '.join(readers)}")
        try:
            values[key] = readers[key](text)
        except ValueError as error:
            raise InvalidConfigError(file, section, key, str(error)) from None
    return kind(**values, **more)


def _read_list(file: str, section: str, given: Any) -> ListConfig:
    found = _read(ListConfig, file, section, given, _LIST, name=section.removeprefix("list "))
    if not found.users and not found.groups:
        raise InvalidConfigError(file, section, "users", "nobody may use the list; name users, or groups")
    if found.timeout is not None and found.max_timeout is not None and found.timeout > found.max_timeout:
        raise InvalidConfigError(file, section, "timeout", "it is longer than max_timeout")
    if found.reject_with is not None and found.action != Action.REJECT.value:
        raise InvalidConfigError(file, section, "reject_with", "it has an effect with action = reject only")
    try:
        found.make()
    except NfkeepError as error:
        raise InvalidConfigError(file, section, "", str(error)) from None
    return found
