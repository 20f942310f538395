"""The sections of the audit's page, one file each.

A section is a function of a `View` that returns a `Section`, or None where it has nothing to show.
A new one is added to `editing.audits.page.SECTIONS`, at the place where readers need it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from editing.audits.report import AuditReport, file_name
from visdiff.report.templating import template


@dataclass(frozen=True)
class View:
    """What a section is rendered from.

    Attributes:
        report: The audit.
        folder: Folder that the page is written to; links are relative to it.
        max_pairs: Most image pairs per sentence, request or group.
    """

    report: AuditReport
    folder: Path
    max_pairs: int


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        id: Anchor, unique on the page.
        heading: Heading, also shown in the table of contents.
        body: The content as HTML; `render_part` escapes text from users and models.
    """

    id: str
    heading: str
    body: Markup


Renderer = Callable[[View], Section | None]


def render_part(name: str, **values: Any) -> Markup:
    """Returns a template of ``editing/audits/templates`` as HTML; all text in it is escaped."""
    return Markup(template(name, "editing.audits").render(**values))


def group_anchor(name: str) -> str:
    """Returns the anchor of a prompt group."""
    return f"group-{file_name(name)}"
