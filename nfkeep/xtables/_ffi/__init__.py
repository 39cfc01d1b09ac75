"""The one door to the kernel's tables and to libxtables: every call into C of the legacy world is made in here.

C memory has one owner each, `TableHandle` or `WalkHandle`; text calls are serialised, because libxtables and getopt
keep global state.
"""

from nfkeep.xtables._ffi.beginning import Surroundings as Surroundings
from nfkeep.xtables._ffi.beginning import is_absent, try_lock
from nfkeep.xtables._ffi.rules import format_entry, parse_words, require_target
from nfkeep.xtables._ffi.tables import TableHandle, read_image
from nfkeep.xtables._ffi.walks import WalkHandle
from nfkeep.xtables._ffi.watching import (
    doorkeeper_add,
    doorkeeper_open,
    listener_add,
    listener_open,
    table_rules_mark,
    table_size_mark,
    ticker_open,
    write_recent,
)

__all__ = [
    "TableHandle",
    "WalkHandle",
    "doorkeeper_add",
    "doorkeeper_open",
    "format_entry",
    "is_absent",
    "listener_add",
    "listener_open",
    "parse_words",
    "read_image",
    "require_target",
    "table_rules_mark",
    "table_size_mark",
    "ticker_open",
    "try_lock",
    "write_recent",
]
