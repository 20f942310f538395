"""How much changed and where: the drift of each group, each bar a link to its group."""

from typing import Any

from editing.audits.report import GroupAudit
from editing.audits.sections import Section, View, group_anchor, render_part
from visdiff.report.text import finite

_FULL = 1.5
"""Drift at the right end of the axis; 1 is the seed noise. Larger values are drawn at the end."""


def drift(view: View) -> Section:
    """Returns the figure of the drift of all groups, and the additional measures."""
    groups = view.report.groups
    measures = list(dict.fromkeys(name for g in groups for name in g.metrics))
    body = render_part(
        "drift.html.j2",
        rows=[_row(g) for g in groups],
        ticks=[(f"{t:g}", 100 * t / _FULL) for t in (0, 0.5, 1, 1.5)],
        measures=measures,
        table=[
            (g.name, [f"{g.metrics[m]:.3g}" if m in g.metrics else "–" for m in measures])
            for g in groups
            if g.metrics
        ],
    )
    return Section("how-much", "How much changed, and where?", body)


def _row(group: GroupAudit) -> dict[str, Any]:
    moved = group.drift
    known = moved is not None and finite(moved.low) is not None
    return {
        "name": group.name,
        "anchor": group_anchor(group.name),
        "meant": group.meant,
        "drift": None if moved is None else f"{moved.value:.2f}",
        "interval": f"{moved.low:.2f}–{moved.high:.2f}" if moved and known else None,
        "bar": None if moved is None else _position(moved.value),
        "low": _position(moved.low) if moved and known else None,
        "high": _position(moved.high) if moved and known else None,
        "n_effects": len(group.confirmed),
    }


def _position(value: float) -> float:
    return round(100 * min(max(value, 0.0), _FULL) / _FULL, 1)
