"""Whether erased concepts can be learnt anew, if that was tested."""

from editing.audits.revival.page import revival_section
from editing.audits.sections import Section, View, render_part


def revival(view: View) -> Section | None:
    """Returns the curves, verdict and images of each erased concept; None without a test."""
    if not view.report.revivals:
        return None
    body = render_part("revival.html.j2", revivals=revival_section(view.report.revivals))
    return Section("revival", "Erased, or hidden?", body)
