"""What became of each state at a rule change, in honest words: the fidelity, and the reason or the figures."""

from __future__ import annotations

import enum
import json

import attrs


class Fidelity(enum.Enum):
    """How well a state came through."""

    SURVIVES = "survives"
    """The kernel keeps it by itself."""
    HELD = "held"
    """Kept alive by a reference that nfkeep placed in another table."""
    RESTORED = "restored"
    """Put back exactly."""
    APPROXIMATED = "approximated"
    """Put back with an error, which the detail states."""
    LOST = "lost"
    """Gone; the detail says why."""

    def __str__(self) -> str:
        return self.value


@attrs.frozen(slots=True)
class Outcome:
    """What became of one state: `kind` (the extension's name), `where` (table, chain, position), fidelity, detail."""

    kind: str
    where: str
    fidelity: Fidelity
    detail: str = ""

    def __str__(self) -> str:
        text = f"{self.kind} at {self.where}: {self.fidelity}"
        return f"{text} ({self.detail})" if self.detail else text


@attrs.frozen(slots=True)
class Report:
    """What came of one change: an outcome for each stateful thing, and for how long opening packets were held off.

    `gate_seconds` is 0.0 where no gate was needed. `recovered`: what killed processes had left in the middle, which was
    finished or undone before.
    """

    outcomes: tuple[Outcome, ...] = ()
    gate_seconds: float = 0.0
    recovered: tuple[Recovered, ...] = ()

    @property
    def lost(self) -> tuple[Outcome, ...]:
        """The outcomes that are losses."""
        return tuple(outcome for outcome in self.outcomes if outcome.fidelity is Fidelity.LOST)

    def to_json(self) -> str:
        """The report as one JSON object: {"outcomes": [{"kind", "where", "fidelity", "detail"}], "gate_seconds"}.

        If anything was recovered it has "recovered" as well: [{"tables", "undone", "left", "report"}].
        """
        row: dict[str, object] = {
            "outcomes": [
                {"kind": o.kind, "where": o.where, "fidelity": o.fidelity.value, "detail": o.detail}
                for o in self.outcomes
            ],
            "gate_seconds": self.gate_seconds,
        }
        if self.recovered:
            row["recovered"] = [json.loads(each.to_json()) for each in self.recovered]
        return json.dumps(row)


@attrs.frozen(slots=True)
class Recovered:
    """What a killed process had left: the tables concerned, whether they were put back as they had been, and what
    became of states. `left`: those tables that should have been put back, but somebody else has changed them since.
    """

    tables: str
    undone: bool
    report: Report
    left: str = ""

    def __str__(self) -> str:
        done = "undone" if self.undone else "not undone" if self.left else "finished"
        text = f"{done}: a change of {self.tables} that was cut off"
        return f"{text}; somebody else has changed {self.left} since, so that was left" if self.left else text

    def to_json(self) -> str:
        """The same as one JSON object: {"tables", "undone", "left", "report"}."""
        report = json.loads(self.report.to_json())
        return json.dumps({"tables": self.tables, "undone": self.undone, "left": self.left, "report": report})
