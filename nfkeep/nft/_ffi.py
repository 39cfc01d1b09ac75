"""The one door to libnftables, through pip-nftables; loaded on first use."""

from __future__ import annotations

import json
from typing import Any

from nfkeep.errors import PermissionDeniedError, UnsupportedError


class Context:
    """A libnftables context: one netlink socket in the network namespace that was current when it was made."""

    def __init__(self) -> None:
        try:
            import nftables
        except ImportError as error:  # pragma: no cover - a core dependency
            raise UnsupportedError(f"the nftables module is missing: {error}", feature="nftables") from error
        try:
            self._nft: Any = nftables.Nftables()
        except OSError as error:
            raise UnsupportedError(f"libnftables cannot be loaded: {error}", feature="libnftables") from error

    def run(self, script: str) -> str:
        """Run a script as one transaction and return what it prints.

        Raises PermissionDeniedError, or UnsupportedError with nft's own words.
        """
        code, output, errors = self._nft.cmd(script)
        if code:
            said = str(errors).strip()
            if "Operation not permitted" in said:
                raise PermissionDeniedError("changing nftables")
            raise UnsupportedError(f"nft refused: {said.splitlines()[0] if said else 'no reason given'}", "nf_tables")
        return str(output)

    def list_json(self, command: str) -> list[dict[str, Any]]:
        """Run a list command and return the objects that it lists (libnftables-json(5))."""
        self._nft.set_json_output(True)
        try:
            listed = json.loads(self.run(command + "\n"))
        finally:
            self._nft.set_json_output(False)
        return list(listed["nftables"])

    def close(self) -> None:
        """Free the context. After a deletion this waits for an RCU grace period, some milliseconds."""
        self._nft = None
