"""Rendering the index of several comparisons, as a self-contained HTML page and as Markdown."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from visdiff.report.markdown import escape
from visdiff.report.templating import template
from visdiff.report.text import auroc_text, p_text
from visdiff.results import Difference, DifferenceReport

if TYPE_CHECKING:
    from visdiff.results.many import ManyReport, Pair

_MAX_ROWS = 5
"""Maximum number of confirmed differences per pair in the index; the pair's page has all."""


def render_index(many: "ManyReport", links: Mapping["Pair", str]) -> str:
    """Renders the index page, which works offline.

    Args:
        many: The result.
        links: Link to each pair's own page, relative to the index.
    """
    matrix = _matrix(many, links)
    return template("many.html.j2").render(
        title=many.title,
        created=max((r.provenance.created for r in many.reports.values()), default="")[:10],
        summary=summary(many),
        warnings=many.warnings,
        columns=matrix[0]["columns"] if matrix else [],
        matrix=matrix,
        pairs=[
            {
                "name": f"{a} and {b}",
                "link": links.get((a, b)),
                "verdict": _sentence(report.verdict),
                "rows": [_row(report, d) for d in report.confirmed[:_MAX_ROWS]],
                "more": max(0, len(report.confirmed) - _MAX_ROWS),
            }
            for (a, b), report in many.reports.items()
        ],
        failed=[(f"{a} and {b}", reason) for (a, b), reason in many.failed.items()],
    )


def render_markdown(many: "ManyReport") -> str:
    """Renders the index as GitHub-flavoured Markdown that ends in a newline."""
    parts = [f"# {escape(many.title)}", escape(summary(many))]
    parts += [f"> **Note.** {escape(warning)}" for warning in many.warnings]
    for (a, b), report in many.reports.items():
        parts += [f"## {escape(a)} and {escape(b)}", escape(_sentence(report.verdict))]
        if report.confirmed:
            lines = ["| difference | more true of | AUROC | q |", "| --- | --- | ---: | ---: |"]
            lines += [
                "| " + " | ".join(escape(cell) for cell in _row(report, d)) + " |"
                for d in report.confirmed
            ]
            parts.append("\n".join(lines))
    if many.failed:
        lines = [
            f"- {escape(a)} and {escape(b)}: {escape(reason)}"
            for (a, b), reason in many.failed.items()
        ]
        parts += ["## Not compared", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def summary(many: "ManyReport") -> str:
    """Summarises the result in two sentences."""
    n = len(many.reports)
    text = (
        f"{many.n_confirmed} confirmed differences in {n} comparisons; q-values are corrected "
        f"over all {many.n_candidates} candidates at once."
    )
    dipped = sum(report.double_dipped for report in many.reports.values())
    if dipped:
        text += (
            f" {dipped} of the comparisons had too few images for a held-out split: they confirm "
            "nothing, and their candidates are not counted."
        )
    incomplete = sum(bool(report.failed_stages) for report in many.reports.values())
    if incomplete:
        text += (
            f" {incomplete} of the comparisons lack more than half of their captions, answers or "
            "scores."
        )
    if many.failed:
        text += f" {len(many.failed)} more could not be compared."
    return text


def _matrix(many: "ManyReport", links: Mapping["Pair", str]) -> list[dict[str, Any]]:
    """Returns the symmetric table of counts, or nothing unless all pairs were compared."""
    pairs = {frozenset(pair) for pair in (*many.reports, *many.failed)}
    n = len(many.names)
    if n < 3 or len(pairs) != n * (n - 1) // 2:
        return []

    def cell(a: str, b: str) -> dict[str, Any] | None:
        key = (a, b) if (a, b) in many.reports else (b, a)
        if key in many.reports:
            return {"text": len(many.reports[key].confirmed), "link": links.get(key)}
        return None if a == b else {"text": "failed", "link": None}

    return [
        {"name": a, "columns": many.names, "cells": [cell(a, b) for b in many.names]}
        for a in many.names
    ]


def _row(report: DifferenceReport, d: Difference) -> tuple[str, str, str, str]:
    of = report.set_a.name if d.direction == "A" else report.set_b.name
    text = f"{d.text} (the second ranker disagrees)" if d.disputed else d.text
    return text, of, auroc_text(d.auroc), p_text(d.q_value)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
