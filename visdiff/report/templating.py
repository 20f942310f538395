"""The templates of all pages: one style sheet, one layout and one set of parts.

A page extends ``page.html.j2``, which holds the head and the style sheet ``page.css``. It makes no
network request and runs no script: the content security policy forbids both, even where text from
users contains a link or a script.
"""

import functools
from importlib import resources
from typing import Any

import jinja2

from visdiff.report.images import data_uri, is_pixelated
from visdiff.report.text import auroc_text, mean_text, p_text

CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

MAX_PAGE = 5_000_000
"""Largest size of a page in bytes. Pages that would be larger show fewer images, and state it."""


def template(name: str, package: str = "visdiff.report") -> jinja2.Template:
    """Returns a template of a package, which may extend and import those of `visdiff.report`.

    Args:
        name: File name below the package's folder ``templates``.
        package: The package.
    """
    return _environment(package).get_template(name)


@functools.cache
def _environment(package: str) -> jinja2.Environment:
    packages = dict.fromkeys([package, "visdiff.report"])
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(p, "templates") for p in packages]),
        autoescape=True,  # the default depends on the file name, and ours end in .j2
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        auroc=auroc_text,
        p=p_text,
        mean=mean_text,
        count=_count,
        uri=data_uri,
        pixelated=is_pixelated,
    )
    environment.globals.update(policy=CONTENT_SECURITY_POLICY, css=_css())
    return environment


def _css() -> str:
    return (resources.files("visdiff.report") / "templates" / "page.css").read_text("utf-8")


def _count(value: Any) -> str:
    return f"{value:,}"
