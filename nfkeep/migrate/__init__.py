"""From iptables to nftables: translation, proven packet by packet.

The public names; each is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfkeep.migrate.loss import Loss
    from nfkeep.migrate.translation import Translation, translate

_HOME = {
    "Loss": "nfkeep.migrate.loss",
    "Translation": "nfkeep.migrate.translation",
    "translate": "nfkeep.migrate.translation",
}

__all__ = ["Loss", "Translation", "translate"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nfkeep.migrate' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
