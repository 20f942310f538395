"""Rendering the index of several comparisons, as a self-contained HTML page and as Markdown."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jinja2

from visdiff.report.collect import auroc_text, p_text
from visdiff.report.html import CONTENT_SECURITY_POLICY
from visdiff.report.markdown import escape
from visdiff.results import Difference, DifferenceReport

if TYPE_CHECKING:
    from visdiff.results.many import ManyReport, Pair

_MAX_ROWS = 5
"""Maximum number of confirmed differences per pair in the index; the pair's page has all."""

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #8886; padding: .3rem .6rem; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.dim { opacity: .65; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ summary }}</p>
{% for warning in warnings %}
<p><strong>Note.</strong> {{ warning }}</p>
{% endfor %}
{% if matrix %}
<table>
<caption>Confirmed differences, pair by pair</caption>
<tr><th></th>{% for name in columns %}<th scope="col">{{ name }}</th>{% endfor %}</tr>
{% for row in matrix %}
<tr><th scope="row">{{ row.name }}</th>
{% for cell in row.cells %}
<td class="number">
{%- if cell is none %}<span class="dim">·</span>
{%- elif cell.link %}<a href="{{ cell.link }}">{{ cell.text }}</a>
{%- else %}{{ cell.text }}{% endif -%}
</td>
{% endfor %}
</tr>
{% endfor %}
</table>
{% endif %}
{% for pair in pairs %}
<h2>{% if pair.link %}<a href="{{ pair.link }}">{{ pair.name }}</a>{% else %}{{ pair.name }}\
{% endif %}</h2>
<p>{{ pair.verdict }}</p>
{% if pair.rows %}
<table>
<tr><th>difference</th><th>more true of</th><th>AUROC</th><th>q</th></tr>
{% for text, of, auroc, q in pair.rows %}
<tr><td>{{ text }}</td><td>{{ of }}</td><td class="number">{{ auroc }}</td>\
<td class="number">{{ q }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% if pair.more %}<p class="dim">and {{ pair.more }} more</p>{% endif %}
{% endfor %}
{% if failed %}
<h2>Not compared</h2>
<ul>
{% for name, reason in failed %}
<li>{{ name }}: {{ reason }}</li>
{% endfor %}
</ul>
{% endif %}
</body>
</html>
"""


def render_index(many: "ManyReport", links: Mapping["Pair", str]) -> str:
    """Renders the index page, which works offline.

    Args:
        many: The result.
        links: Link to each pair's own page, relative to the index.
    """
    matrix = _matrix(many, links)
    return _template().render(
        policy=CONTENT_SECURITY_POLICY,
        title=many.title,
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


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_PAGE)
