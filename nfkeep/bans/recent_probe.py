"""Finds out, in a network namespace of its own, whether this kernel can have lists of xt_recent with their rules.

A probe and not a look at modules: what is not loaded yet is loaded by it, as iptables would.
"""

from __future__ import annotations

import errno
import functools

from nfkeep.errors import CommitError, PermissionDeniedError, UnsupportedError
from nfkeep.model import Family, Rule
from nfkeep.namespaces import Namespace
from nfkeep.xtables.tables import TableHandle


@functools.cache
def require_recent() -> None:
    """Raise UnsupportedError where there can be no such list; asked once per process, as the answer is the kernel's.

    Proves it by a rule in a table of its own. Where no namespace can be made (in most containers) it passes, and
    whoever makes a list finds out.
    """
    try:
        namespace = Namespace()
    except PermissionDeniedError:
        return
    try:
        with namespace, TableHandle("mangle", Family.IPV4) as handle:
            handle.append("INPUT", Rule.parse("-m recent --rcheck --rsource"))
            handle.commit()
    except CommitError as error:
        if error.errno != errno.ENOENT:
            raise
        raise UnsupportedError("this kernel has no match recent (xt_recent)", feature="xt_recent") from None
    finally:
        namespace.close()
