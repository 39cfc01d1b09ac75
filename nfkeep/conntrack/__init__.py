"""Live flows: which ones a connlimit rule can count, and how to have them counted again after it was reset.

`Conntrack.select` finds them, `Injector` lets their opening packets enter, `prime` does it; `Conntrack.delete_from`
ends those of banned hosts. C is behind `_ffi` only.
"""

from nfkeep.conntrack.flows import Conntrack, Flows
from nfkeep.conntrack.inject import Injector
from nfkeep.conntrack.prime import Primed, prime
from nfkeep.conntrack.select import Condition, Selector

__all__ = ["Condition", "Conntrack", "Flows", "Injector", "Primed", "Selector", "prime"]
