"""The compiled module itself, and what all calls into it have in common."""

from __future__ import annotations

import os
from typing import Any

from nfkeep.xtables._xtables import ffi as _ffi
from nfkeep.xtables._xtables import lib as _lib

ffi: Any = _ffi
lib: Any = _lib


def text(chars: Any) -> str:
    return os.fsdecode(ffi.string(chars))
