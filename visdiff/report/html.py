"""Rendering a report as a self-contained HTML page, and as a small fragment for notebooks."""

import functools
from importlib import resources
from typing import Any

import jinja2

from visdiff.report.collect import auroc_text, collect, mean_text, p_text
from visdiff.results import DifferenceReport

FRAGMENT_ROWS = 12
"""Maximum number of differences in the notebook fragment; the page has all of them."""

# The page makes no network request: no script, font or image, even if user text contains one.
CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_html(report: DifferenceReport) -> str:
    """Renders a report as a page that works offline, in light and dark mode and in print.

    Styles, figures (SVG) and thumbnails (base64) are embedded; there are no scripts and no network
    requests. All text from users and models is escaped.

    Args:
        report: The report.

    Returns:
        A complete HTML document.
    """
    return _template("report.html.j2").render(
        **collect(report), css=_css(), content_security_policy=CONTENT_SECURITY_POLICY
    )


def render_fragment(report: DifferenceReport) -> str:
    """Renders the verdict and a small table as an HTML fragment for a notebook cell.

    No thumbnail is encoded and no histogram computed. Styles are inline, and colours are legible on
    a light and on a dark background, because the notebook's page is unknown.

    Args:
        report: The report.

    Returns:
        A ``<div>`` without ``<html>``, ids, classes or style sheets.
    """
    return _template("fragment.html.j2").render(
        **collect(report, with_figures=False), rows=FRAGMENT_ROWS
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("visdiff.report", "templates"),
        autoescape=True,  # the default depends on the file name, and ours end in .j2
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(auroc=auroc_text, p=p_text, mean=mean_text, count=_count)
    return environment


def _template(name: str) -> jinja2.Template:
    return _environment().get_template(name)


@functools.cache
def _css() -> str:
    return (resources.files("visdiff.report") / "templates" / "report.css").read_text("utf-8")


def _count(value: Any) -> str:
    return f"{value:,}"
