"""The largest side effects, over all groups, with pairs."""

from typing import TYPE_CHECKING, Any

from editing.audits.report import GroupAudit
from editing.audits.sections import Section, View, group_anchor, render_part
from visdiff.results import Difference

if TYPE_CHECKING:
    from editing.audits.report import AuditReport

WORST = 3
"""Side effects shown on top."""

_PAIRS = 2
"""Most pairs of each: one row."""


def side_effects(view: View) -> Section:
    """Returns the three largest side effects."""
    report = view.report
    ranked = ranked_effects(report)
    body = render_part(
        "side_effects.html.j2",
        effects=[
            effect(group, d, min(_PAIRS, view.max_pairs))
            | {"group": group.name, "anchor": group_anchor(group.name)}
            for group, d in ranked[:WORST]
        ],
        n=len(ranked),
        n_confirmed=len(report.side_effects),
        n_candidates=report.n_candidates,
        incomplete=[
            f"{group.name}: {stage.sentence}"
            for group in report.groups
            if not group.meant
            for stage in group.report.failed_stages
        ],
    )
    return Section("else", "What else changed most?", body)


def ranked_effects(report: "AuditReport") -> list[tuple[GroupAudit, Difference]]:
    """Returns the side effects by size, largest first; a sentence of several groups once."""
    by_size = sorted(report.side_effects, key=lambda found: -found[1].auroc)
    distinct = {(d.text, d.direction): (g, d) for g, d in reversed(by_size)}
    return sorted(distinct.values(), key=lambda found: -found[1].auroc)


def effect(group: GroupAudit, d: Difference, max_pairs: int) -> dict[str, Any]:
    """Returns a confirmed difference for the template ``effect`` of ``pairs.html.j2``."""
    return {
        "text": d.text,
        "added": d.direction == "B",
        "auroc": d.auroc,
        "ci_low": d.ci_low,
        "ci_high": d.ci_high,
        "q": d.q_value,
        "pairs": group.pairs.get(d.text, ())[:max_pairs],
    }
