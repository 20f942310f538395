"""The audit as one self-contained HTML page."""

from pathlib import Path
from typing import TYPE_CHECKING

from editing.audits.pairs import MAX_PAIRS
from editing.audits.sections import Renderer, Section, View
from editing.audits.sections.by_group import by_group
from editing.audits.sections.drift import drift
from editing.audits.sections.origin import origin
from editing.audits.sections.preserve import preserve
from editing.audits.sections.requests import requests
from editing.audits.sections.revival import revival
from editing.audits.sections.side_effects import side_effects
from editing.audits.sections.subjects import subjects
from visdiff.report.templating import MAX_PAGE, template
from visdiff.report.text import auroc_text

if TYPE_CHECKING:
    from editing.audits.report import AuditReport

SECTIONS: tuple[Renderer, ...] = (
    requests,
    subjects,
    revival,
    drift,
    side_effects,
    by_group,
    preserve,
    origin,
)
"""The sections of the page, in the order of a reader's questions."""


def render(report: "AuditReport", folder: str | Path) -> str:
    """Returns the page. It opens offline, loads nothing, and escapes all text it is given.

    A page that would be larger than `visdiff.report.templating.MAX_PAGE` has fewer image pairs, and
    a warning that states how many.

    Args:
        report: The audit.
        folder: Folder the page is written to, for links and for the command of the next edit.
    """
    page = ""
    for max_pairs in (MAX_PAIRS, 2, 1, 0):
        page = _render(View(report, Path(folder), max_pairs))
        if len(page.encode("utf-8", "replace")) <= MAX_PAGE:
            break
    return page


def render_fragment(report: "AuditReport") -> str:
    """Returns the verdict and a small table, for a notebook cell."""
    groups = [
        {
            "name": group.name,
            "meant": group.meant,
            "drift": auroc_text(group.drift.value) if group.drift else "–",
            "sentences": report.sentences(group),
        }
        for group in report.groups
    ]
    return template("audit_fragment.html.j2", "editing.audits").render(
        verdict=report.verdict, groups=groups
    )


def _render(view: View) -> str:
    report, warnings = view.report, list(view.report.warnings)
    if view.max_pairs < MAX_PAIRS:
        warnings.append(
            f"To keep this page below {MAX_PAGE / 1e6:.0f} MB, at most {view.max_pairs} pairs of "
            "images are shown in one place; the folder of the images has all."
        )
    sections: list[Section] = [s for make in SECTIONS if (s := make(view)) is not None]
    return template("audit.html.j2", "editing.audits").render(
        verdict=report.verdict,
        about=dict(report.about),
        warnings=warnings,
        n_pairs=sum(group.n for group in report.groups),
        created=max((g.report.provenance.created for g in report.groups), default="")[:10],
        sections=sections,
    )
