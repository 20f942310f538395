"""The audit of one taught subject, with its values as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from editing.audits.personalized.advice import Advice
from editing.audits.personalized.checkpoints import Checkpoint
from editing.audits.personalized.findings import Finding
from editing.audits.personalized.measures import Measured, Recognised
from editing.requests import Request


@dataclass(frozen=True)
class SubjectAudit:
    """What a personalised model learnt, what else it learnt, and what that cost.

    Attributes:
        request: The request to learn the subject.
        recognised: How often the identifier draws the subject; None without references.
        measures: Likeness, PRES, DIV and the attention leak, next to the untaught model's.
        findings: The faults that were tested, confirmed ones first, then by size.
        checkpoints: Likeness and drift at the steps that were kept.
        recommended: The step that they recommend; None without checkpoints.
        advice: What to do next, for the confirmed faults.
        missing: Part → why it was not measured.
        notes: Sentences about what was assumed.
    """

    request: Request
    recognised: Recognised | None
    measures: tuple[Measured, ...]
    findings: tuple[Finding, ...]
    checkpoints: tuple[Checkpoint, ...] = ()
    recommended: int | None = None
    advice: tuple[Advice, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def confirmed(self) -> tuple[Finding, ...]:
        """The confirmed faults."""
        return tuple(f for f in self.findings if f.confirmed)

    @property
    def reasons(self) -> dict[str, list[str]]:
        """Reason → the parts that were not measured for it."""
        found: dict[str, list[str]] = {}
        for part, reason in self.missing.items():
            found.setdefault(reason, []).append(part)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON values; NaN stays NaN."""
        return {
            "subject": self.request.wording,
            "recognised": None
            if self.recognised is None
            else {
                "before": asdict(self.recognised.before),
                "after": asdict(self.recognised.after),
                "threshold": self.recognised.threshold,
            },
            "measures": [asdict(m) for m in self.measures],
            "findings": [asdict(f) for f in self.findings],
            "checkpoints": [asdict(c) for c in self.checkpoints],
            "recommended": self.recommended,
            "advice": [asdict(a) for a in self.advice],
            "missing": dict(self.missing),
            "notes": list(self.notes),
        }
