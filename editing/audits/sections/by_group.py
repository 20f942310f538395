"""All groups of prompts, collapsed; one line for a group where nothing was found."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from editing.audits.effects import Key, SideEffect
from editing.audits.report import GroupAudit
from editing.audits.sections import Section, View, group_anchor, render_part
from editing.audits.sections.side_effects import WORST, effect
from visdiff.results import Difference


def by_group(view: View) -> Section:
    """Returns every group with its confirmed differences, largest first, and its pairs."""
    report = view.report
    effects = {
        (group.name, d.text, d.direction): (rank, e)
        for rank, e in enumerate(report.effects)
        for group, d in e.found
    }
    body = render_part("by_group.html.j2", groups=[_group(view, g, effects) for g in report.groups])
    return Section("groups", "Group by group", body)


def _group(
    view: View, group: GroupAudit, effects: Mapping[Key, tuple[int, SideEffect]]
) -> dict[str, Any]:
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
        "effects": [_effect(view, group, d, effects) for d in found],
        "pairs": () if found else group.pairs.get("", ())[: view.max_pairs],
    }


def _effect(
    view: View, group: GroupAudit, d: Difference, effects: Mapping[Key, tuple[int, SideEffect]]
) -> dict[str, Any]:
    """Returns a difference, with its pairs only where it represents a side effect, and once."""
    rank, e = effects.get((group.name, d.text, d.direction), (WORST, None))
    first = e is None or (e.group.name, e.difference.text) == (group.name, d.text)
    on_top = first and rank < WORST
    anchor, other = ("else", "pairs above") if on_top else ("", "")
    if e is not None and not first:
        anchor = "else" if rank < WORST else group_anchor(e.group.name)
        other = f"the same as {e.change}"
        other += "" if e.group.name == group.name else f" ({e.group.name})"
    pairs = view.max_pairs if first and not on_top else 0
    return effect(group, d, pairs) | {"anchor": anchor, "other": other}
