"""The heart: what a change of rules would do to their state, and the change made so that it does not.

Calling it, as `with nfkeep.keep() as kept: …`, is `nfkeep.keep.keeping.keep`: the public function has the name of this
package, and whichever of the two an import has bound last must do.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfkeep.keep.keeping import Keeping


class _Package(ModuleType):
    def __call__(self, *, lock_timeout: float | None = 60.0) -> Keeping:
        from nfkeep.keep.keeping import keep

        return keep(lock_timeout=lock_timeout)


sys.modules[__name__].__class__ = _Package
