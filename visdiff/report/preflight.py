"""The pre-flight findings of a report, as lines and rows."""

from collections.abc import Mapping
from typing import Any

from visdiff.report.text import auroc_text, count_text, finite
from visdiff.results import DifferenceReport


def preflight_content(report: DifferenceReport) -> dict[str, Any]:
    """Returns the pre-flight findings as lines and the confounds as rows; keys may be missing."""
    found = report.preflight
    a, b = report.set_a.name, report.set_b.name
    lines: list[str] = []
    cross: list[list[str]] = list(found.get("cross_duplicates") or ())
    if cross:
        shared = len({pair[0] for pair in cross})
        are = "is" if shared == 1 else "are"
        lines.append(f"{count_text(shared, 'image')} of {a} {are} also in {b}, byte for byte.")
    for key, name in (("duplicates_within_a", a), ("duplicates_within_b", b)):
        if found.get(key):
            lines.append(f"{count_text(int(found[key]), 'duplicate')} within {name}.")
    unreadable: list[dict[str, str]] = []
    for key, name in (("unreadable_a", a), ("unreadable_b", b)):
        entries = [tuple(entry) for entry in found.get(key) or ()]
        if entries:
            lines.append(f"{count_text(len(entries), 'unreadable image')} in {name}.")
        unreadable += [
            {"set": name, "id": str(entry[0]), "reason": str(entry[-1])} for entry in entries
        ]
    confounds = [
        {
            "name": str(c.get("name", "")),
            "higher": _oriented(c)[0],
            "auroc": _oriented(c)[1],
            "mean_a": finite(c.get("mean_a")),
            "mean_b": finite(c.get("mean_b")),
            "q_value": finite(c.get("q_value")),
            "flagged": bool(c.get("flagged")),
            "sentence": str(c.get("sentence") or ""),
        }
        for c in found.get("confounds") or ()
    ]
    return {
        "ran": bool(found),
        "lines": lines,
        "unreadable": unreadable,
        "cross_duplicates": [" = ".join(str(i) for i in pair) for pair in cross],
        "confounds": sorted(confounds, key=lambda c: not c["flagged"]),
        "flagged": sum(c["flagged"] for c in confounds),
    }


def worst_confound(report: DifferenceReport) -> str:
    """Returns the most separating flagged property with its AUROC, such as "B is brighter"."""
    flagged = [c for c in report.preflight.get("confounds") or () if c.get("flagged")]
    if not flagged:
        return ""
    worst = max(flagged, key=lambda c: abs((finite(c.get("auroc")) or 0.5) - 0.5))
    _, auroc = _oriented(worst)
    text = str(worst.get("short") or worst.get("name", ""))
    return f"{text}: AUROC {auroc_text(auroc)}"


def _oriented(confound: Mapping[str, Any]) -> tuple[str, float | None]:
    """Returns the set with the larger values of a property, and the AUROC in its direction."""
    auroc = finite(confound.get("auroc"))
    if auroc is None:
        return "", None
    return ("A", auroc) if auroc >= 0.5 else ("B", 1 - auroc)
