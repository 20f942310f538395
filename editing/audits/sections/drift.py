"""How much changed and where: the drift of each group, each bar a link to its group."""

import math
from typing import Any

from editing.audits.report import GroupAudit
from editing.audits.sections import Section, View, group_anchor, render_part
from visdiff.report.text import finite

_LEAST, _MOST = 1.5, 4.0
"""Least and most drift at the right end of the axis; 1 is the seed noise."""


def drift(view: View) -> Section:
    """Returns the figure of the drift of all groups, and the additional measures."""
    groups = view.report.groups
    measures = list(dict.fromkeys(name for g in groups for name in g.metrics))
    largest = max((g.drift.value for g in groups if g.drift is not None), default=0.0)
    end = min(max(_LEAST, math.ceil(2 * largest) / 2), _MOST)
    body = render_part(
        "drift.html.j2",
        rows=[_row(g, end) for g in groups],
        ticks=[(f"{t / 2:g}", _position(t / 2, end)) for t in range(int(2 * end) + 1)],
        noise=_position(1.0, end),
        cut=end if largest > end else None,
        measures=measures,
        table=[
            (g.name, [f"{g.metrics[m]:.3g}" if m in g.metrics else "–" for m in measures])
            for g in groups
            if g.metrics
        ],
    )
    return Section("how-much", "How much changed, and where?", body)


def _row(group: GroupAudit, end: float) -> dict[str, Any]:
    moved = group.drift
    known = moved is not None and finite(moved.low) is not None
    return {
        "name": group.name,
        "anchor": group_anchor(group.name),
        "meant": group.meant,
        "drift": None if moved is None else f"{moved.value:.2f}",
        "interval": f"{moved.low:.2f}–{moved.high:.2f}" if moved and known else None,
        "bar": None if moved is None else _position(moved.value, end),
        "low": _position(moved.low, end) if moved and known else None,
        "high": _position(moved.high, end) if moved and known else None,
        "n_effects": len(group.confirmed),
    }


def _position(value: float, end: float) -> float:
    """Returns a position on the axis in percent; values beyond its end are drawn at the end."""
    return round(100 * min(max(value, 0.0), end) / end, 1)
