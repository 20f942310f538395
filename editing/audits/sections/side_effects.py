"""The largest side effects, over all groups, with pairs."""

from typing import Any

from editing.audits.effects import often
from editing.audits.report import GroupAudit
from editing.audits.sections import Section, View, group_anchor, render_part
from visdiff.results import Difference

WORST = 3
"""Side effects shown on top."""

_PAIRS = 2
"""Most pairs of each: one row."""


def side_effects(view: View) -> Section:
    """Returns the three largest side effects."""
    report = view.report
    effects = report.effects
    body = render_part(
        "side_effects.html.j2",
        effects=[
            effect(e.group, e.difference, min(_PAIRS, view.max_pairs))
            | {"groups": [(name, group_anchor(name)) for name in e.groups]}
            for e in effects[:WORST]
        ],
        n=len(effects),
        n_confirmed=sum(len(e.found) for e in effects),
        n_candidates=report.n_candidates,
        incomplete=[
            f"{group.name}: {stage.sentence}"
            for group in report.groups
            if not group.meant
            for stage in group.report.failed_stages
        ],
    )
    return Section("else", "What else changed most?", body)


def effect(group: GroupAudit, d: Difference, max_pairs: int) -> dict[str, Any]:
    """Returns a confirmed difference for the template ``effect`` of ``pairs.html.j2``."""
    return {
        "text": d.text,
        "added": d.direction == "B",
        "often": often(d.direction),
        "auroc": d.auroc,
        "ci_low": d.ci_low,
        "ci_high": d.ci_high,
        "q": d.q_value,
        "pairs": group.pairs.get(d.text, ())[:max_pairs],
    }
