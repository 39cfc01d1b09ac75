"""Values that are made by the ten thousand: nothing changes them either, but only the type checker sees to that.

attrs.frozen has each of their fields set by a call, which took a fifth of the time of a translation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from attrs import frozen as plenty
else:

    def plenty(**options: object) -> object:
        """Like `attrs.frozen`."""
        return attrs.define(unsafe_hash=True, **options)


__all__ = ["plenty"]
