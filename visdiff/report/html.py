"""Rendering a report as a self-contained HTML page, and as a small fragment for notebooks."""

from collections.abc import Sequence
from urllib.parse import quote

from visdiff.report.collect import MAX_EVIDENCE, collect
from visdiff.report.templating import MAX_PAGE, template
from visdiff.results import DifferenceReport

FRAGMENT_ROWS = 12
"""Maximum number of differences in the notebook fragment; the page has all of them."""


def render_html(report: DifferenceReport, files: Sequence[str] = ()) -> str:
    """Renders a report as a page that works offline, in light and dark mode and in print.

    Styles, figures (SVG) and thumbnails (base64) are embedded; there are no scripts and no network
    requests. All text from users and models is escaped. A page that would be larger than
    `visdiff.report.templating.MAX_PAGE` shows fewer images, and states it.

    Args:
        report: The report.
        files: Names of other files in the page's folder, which the page links to.

    Returns:
        A complete HTML document.
    """
    links = [(name, quote(name)) for name in files]
    page = ""
    for max_evidence in (MAX_EVIDENCE, 3, 1, 0):
        content = collect(report, max_evidence=max_evidence)
        page = template("report.html.j2").render(**content, files=links)
        if len(page.encode("utf-8", "replace")) <= MAX_PAGE:
            break
    return page


def render_fragment(report: DifferenceReport) -> str:
    """Renders the verdict and a small table as an HTML fragment for a notebook cell.

    No thumbnail is encoded and no histogram computed. Styles are inline, and colours are legible on
    a light and on a dark background, because the notebook's page is unknown.

    Args:
        report: The report.

    Returns:
        A ``<div>`` without ``<html>``, ids, classes or style sheets.
    """
    return template("fragment.html.j2").render(
        **collect(report, with_figures=False), rows=FRAGMENT_ROWS
    )
