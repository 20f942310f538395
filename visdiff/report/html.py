"""The report as one self-contained HTML page, and as a small fragment for notebooks."""

import functools
from importlib import resources
from typing import Any

import jinja2

from visdiff.report.collect import auroc_text, collect, mean_text, p_text
from visdiff.results import DifferenceReport

FRAGMENT_ROWS = 12
"""Differences that the notebook fragment lists; the page has all of them."""

# No request may leave the page: not for a script, a font or an image, nor for what slipped in.
CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_html(report: DifferenceReport) -> str:
    """The report as a page that opens offline, in light and dark, on a phone and on paper.

    Styles, figures (SVG) and thumbnails (base64) are in the page; there is no script, no request.
    Everything that came from the user is escaped.

    Args:
        report: The report.

    Returns:
        A complete HTML document.
    """
    return _template("report.html.j2").render(
        **collect(report), css=_css(), content_security_policy=CONTENT_SECURITY_POLICY
    )


def render_fragment(report: DifferenceReport) -> str:
    """Verdict and a small table, as an HTML fragment for a notebook cell.

    Cheap: no thumbnail is encoded and no histogram computed. Styles are inline and only colours
    that read on light and on dark, because the page around the fragment is not ours.

    Args:
        report: The report.

    Returns:
        A ``<div>`` without ``<html>``, ids, classes or style sheets.
    """
    return _template("fragment.html.j2").render(
        **collect(report, figures_too=False), rows=FRAGMENT_ROWS
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("visdiff.report", "templates"),
        autoescape=True,  # for every template: the default goes by file name, and ours end in .j2
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
