"""The part of an audit's page on taught subjects, as values for its template."""

import math
from collections.abc import Sequence
from typing import Any

from editing.audits.personalized.findings import Finding
from editing.audits.personalized.measures import Measured
from editing.audits.personalized.result import SubjectAudit
from visdiff.report.text import p_text


def subject_section(subjects: Sequence[SubjectAudit]) -> list[dict[str, Any]]:
    """Returns the values of ``personalized.html.j2``, one dictionary for each subject."""
    return [
        {
            "name": subject.request.wording,
            "findings": [_finding(f) for f in subject.confirmed],
            "others": [_finding(f) for f in subject.findings if not f.confirmed],
            "measures": [_measure(m) for m in subject.measures],
            "checkpoints": [
                {
                    "step": c.step,
                    "likeness": f"{c.likeness:.0%}",
                    "drift": f"{c.drift:.0%}",
                    "best": c.best,
                    "recommended": c.step == subject.recommended,
                }
                for c in subject.checkpoints
            ],
            "recommended": subject.recommended,
            "advice": subject.advice,
            "missing": [(", ".join(parts), reason) for reason, parts in subject.reasons.items()],
            "notes": subject.notes,
        }
        for subject in subjects
    ]


def _finding(finding: Finding) -> dict[str, str]:
    return {
        "sentence": finding.sentence,
        "size": f"{finding.size:.0%}",
        "q": p_text(finding.q_value),
    }


def _measure(measured: Measured) -> dict[str, str]:
    after = measured.after
    known = not math.isnan(after.low)
    return {
        "name": measured.name,
        "before": f"{measured.before.value:.2f}",
        "after": f"{after.value:.2f}",
        "interval": f"{after.low:.2f}–{after.high:.2f}" if known else "–",
        "real": "–" if math.isnan(measured.real) else f"{measured.real:.2f}",
        "n": str(after.n),
    }
