"""Rule text and rule bytes, through libxtables."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from nfkeep.errors import InvalidRuleError
from nfkeep.model import Counters, Family
from nfkeep.xtables._ffi.door import ffi, lib, text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_text_lock = threading.Lock()


def parse_words(words: Sequence[str], family: Family) -> tuple[bytes, Counters]:
    """The entry (see csrc/xtables_world.h) and counters that the words of a rule stand for.

    Raises InvalidRuleError with the extension's own words.
    """
    arguments = [ffi.new("char[]", os.fsencode(word)) for word in ("nfkeep", *words)]
    argv = ffi.new("char *[]", [*arguments, ffi.NULL])
    out = ffi.new("struct nfk_text *")
    with _text_lock:
        lib.nfk_rule_parse(family.value, len(arguments), argv, out)
        try:
            if out.failed:
                raise InvalidRuleError(text(out.reason), " ".join(words))
            entry = bytearray(ffi.buffer(out.entry, out.entry_length))
        finally:
            lib.nfk_text_free(out)
    at = _COUNTERS_AT[family]
    counters = Counters(int.from_bytes(entry[at : at + 8], _NATIVE), int.from_bytes(entry[at + 8 : at + 16], _NATIVE))
    entry[at : at + 16] = bytes(16)
    return bytes(entry), counters


def format_entry(entry: bytes, family: Family) -> str:
    """What iptables-save prints for an entry, from the first option on. Raises InvalidRuleError for other bytes."""
    return _printed(lambda out: lib.nfk_rule_format(family.value, ffi.from_buffer(entry), len(entry), out)).strip()


def format_table(table: Any) -> str:
    """What iptables-save prints for an open table. Raises InvalidRuleError for one with bytes that are no rule."""
    return _printed(lambda out: lib.nfk_table_format(table, out))


def _printed(print_into: Callable[[Any], None]) -> str:
    out = ffi.new("struct nfk_text *")
    with _text_lock:
        print_into(out)
        try:
            if out.failed:
                raise InvalidRuleError(text(out.reason))
            return os.fsdecode(bytes(ffi.buffer(out.text, out.text_length)))
        finally:
            lib.nfk_text_free(out)


def require_target(name: str, family: Family) -> None:
    """Raise InvalidRuleError, in libxtables' words, unless `name` is an extension that can be a target."""
    out = ffi.new("struct nfk_text *")
    with _text_lock:
        lib.nfk_target_known(family.value, os.fsencode(name), out)
    if out.failed:
        raise InvalidRuleError(text(out.reason))


_NATIVE = sys.byteorder
_COUNTERS_AT = {Family.IPV4: 96, Family.IPV6: 152}
