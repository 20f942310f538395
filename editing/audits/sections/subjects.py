"""What a taught subject changed besides itself, if the edit teaches one."""

from editing.audits.personalized.page import subject_section
from editing.audits.sections import Section, View, render_part


def subjects(view: View) -> Section | None:
    """Returns the faults, measures and advice of each subject; None without a taught subject."""
    if not view.report.subjects:
        return None
    body = render_part("personalized.html.j2", subjects=subject_section(view.report.subjects))
    return Section("subjects", "What else did the subject teach?", body)
