"""What the next edit should preserve, and the command that fits it."""

from editing.audits.report import NOTABLE
from editing.audits.sections import Section, View, render_part


def preserve(view: View) -> Section:
    """Returns the concepts that moved far, and the command of the next edit."""
    body = render_part(
        "preserve.html.j2",
        concepts=view.report.to_preserve,
        command="" if view.report.subjects else view.report.next_command(view.folder),
        notable=NOTABLE,
    )
    return Section("next", "What should the next edit preserve?", body)
