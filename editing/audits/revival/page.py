"""The part of an audit's page on revivals, as values for its template."""

from collections.abc import Sequence
from typing import Any

from editing.audits.revival.curves import COMPARABLE, Comparison, Revival, count_text, steps_text
from visdiff.report.images import data_uri


def revival_section(revivals: Sequence[Revival]) -> list[dict[str, Any]]:
    """Returns the values of ``revival.html.j2``, one dictionary for each concept."""
    return [
        {
            "concept": r.concept,
            "verdict": r.verdict,
            "sentence": r.sentence,
            "notes": r.notes,
            "factor": f"{COMPARABLE:.0f}",
            "comparisons": [_comparison(c) for c in r.comparisons],
            "strips": [
                {"caption": caption, "uri": data_uri(data)} for caption, data in r.strips.items()
            ],
        }
        for r in revivals
    ]


def _comparison(c: Comparison) -> dict[str, Any]:
    curves = {"edited": c.edited, "original": c.original, "unknown": c.unknown}
    names = {
        "edited": "edited model",
        "original": "original model",
        "unknown": "unknown concept, original model",
    }
    return {
        "pictures": count_text(c.pictures, "picture"),
        "verdict": c.verdict,
        "steps": c.edited.steps,
        "images": len(c.edited.recognised[0]),
        "rows": [
            {
                "name": names[key],
                "shares": [f"{p.value:.0%}" for p in curve.shares],
                "duration": steps_text(c.durations[key], curve.steps[-1]),
            }
            for key, curve in curves.items()
        ],
    }
