"""All groups of prompts, collapsed; one line for a group where nothing was found."""

from typing import Any
from urllib.parse import quote

from editing.audits.report import GroupAudit
from editing.audits.sections import Section, View, group_anchor, render_part
from editing.audits.sections.side_effects import WORST, effect, ranked_effects


def by_group(view: View) -> Section:
    """Returns every group with its confirmed differences, largest first, and its pairs."""
    report = view.report
    on_top = {(g.name, d.text) for g, d in ranked_effects(report)[:WORST]}
    body = render_part("by_group.html.j2", groups=[_group(view, g, on_top) for g in report.groups])
    return Section("groups", "Group by group", body)


def _group(view: View, group: GroupAudit, on_top: set[tuple[str, str]]) -> dict[str, Any]:
    found = sorted(group.confirmed, key=lambda d: -d.auroc)
    moved = group.drift
    return {
        "name": group.name,
        "anchor": group_anchor(group.name),
        "link": quote(f"{group.folder}/report.html"),
        "meant": group.meant,
        "n": group.n,
        "n_tested": group.n_tested,
        "prompts": [prompt or "(empty)" for prompt in group.prompts],
        "drift": None if moved is None else f"{moved.value:.2f}",
        "by_concept": [(c, f"{v:.2f}") for c, v in group.by_concept.items() if c],
        "incomplete": [stage.sentence for stage in group.report.failed_stages],
        "effects": [
            effect(group, d, 0 if (group.name, d.text) in on_top else view.max_pairs)
            | {"on_top": (group.name, d.text) in on_top}
            for d in found
        ],
        "pairs": () if found else group.pairs.get("", ())[: view.max_pairs],
    }
