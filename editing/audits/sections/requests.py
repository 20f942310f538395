"""What was asked for, and whether it worked: one row a request, with pairs."""

from collections.abc import Sequence
from typing import Any

from editing.audits.outcomes import Outcome
from editing.audits.sections import Section, View, render_part
from editing.requests import changes_of

_OPEN = 3
"""Requests whose pairs are visible when the page opens."""

_PAIRS = 2
"""Most pairs shown per request: one row."""


def requests(view: View) -> Section:
    """Returns the outcome of each request, with pairs that were not chosen by their content."""
    report = view.report
    outcomes: dict[str, list[Outcome]] = {}
    for outcome in report.outcomes:
        outcomes.setdefault(outcome.request.describe(), []).append(outcome)
    asked = [*changes_of(report.requests), *(o.request for o in report.outcomes)]
    concepts = {r.describe(): r.concept for r in asked}
    limit = min(_PAIRS, view.max_pairs)
    rows = [
        {
            "request": request,
            "met": _worst(outcomes.get(request, ())),
            "outcomes": [_outcome(o) for o in outcomes.get(request, ())],
            "pairs": _examples(view, concept)[:limit],
            "open": number <= _OPEN,
        }
        for number, (request, concept) in enumerate(concepts.items(), 1)
    ]
    others = [r.describe() for r in report.requests if r.describe() not in concepts]
    body = render_part("requests.html.j2", rows=rows, others=others)
    return Section("asked", "What was asked, and did it work?", body)


def _examples(view: View, concept: str) -> Sequence[Any]:
    """Returns the first pairs of a concept in the groups that the edit was meant to change."""
    for group in view.report.groups:
        if group.meant and group.examples.get(concept):
            return group.examples[concept]
    return ()


def _worst(outcomes: Sequence[Outcome]) -> str:
    met = [o.met for o in outcomes]
    return next((m for m in ("no", "in part", "unknown", "yes") if m in met), "unknown")


def _outcome(o: Outcome) -> dict[str, Any]:
    return {
        "sought": o.sought,
        "wanted": o.wanted if isinstance(o.wanted, str) else f"{o.wanted:.0%}",
        "before": f"{o.before.value:.0%}",
        "after": f"{o.after.value:.0%}",
        "interval": f"{o.after.low:.0%}–{o.after.high:.0%}",
        "n": o.after.n,
        "met": o.met,
    }
