"""Which packets an option tells apart: for each option of a rule, fields of packets for which it holds, and fails."""

from __future__ import annotations

from nfkeep.migrate.verify.fields import addresses, connections, headers, meta, payloads, ports, repeats, transports
from nfkeep.migrate.verify.fields.choices import Choices, Setting, choices_for

__all__ = ["Choices", "Setting", "choices_for"]

_KNOWN = (
    addresses,
    connections,
    headers,
    meta,
    payloads,
    ports,
    repeats,
    transports,
)
"""Each fills the register by being there."""
