"""Does an nft script do what rules of iptables do? Both are tried on the kernel, side by side, with the same packets.

Two network namespaces are made for it; nothing on the host changes. Root is needed, and the legacy tables (ip_tables).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.verify.harness import Comparison, Difference, Harness
from nfkeep.migrate.verify.packet import Packet
from nfkeep.migrate.verify.result import Mismatch, Verification
from nfkeep.migrate.verify.rulesets import Refused

if TYPE_CHECKING:
    from nfkeep.migrate.verify.shrink import Translate
    from nfkeep.model import Family

__all__ = ["Comparison", "Difference", "Harness", "Mismatch", "Packet", "Refused", "Verification", "verify"]


def verify(
    save_text: str,
    script: str,
    family: Family,
    *,
    packets: int = 2000,
    seed: int = 0,
    translate: Translate | None = None,
) -> Verification:
    """Send `packets` packets, derived from the rules of `save_text`, through them and through `script`.

    `script` is text for `nft -f` and holds the rules of one family. With `translate` (iptables-save text and family in,
    script out) each mismatch is brought down to the fewest rules that show it, and rules that this kernel refuses are
    left out on both sides and told in `uncompared`; without, one such rule means that nothing is compared.

    Raises InvalidRuleError for what is no iptables-save text, Refused where nft does not take the script,
    PermissionDeniedError, and what `translate` raises.
    """
    from nfkeep.migrate.verify.run import run

    with Harness(family) as harness:
        return run(harness, save_text, script, packets=packets, seed=seed, translate=translate)
