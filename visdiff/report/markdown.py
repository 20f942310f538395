"""Rendering a report as Markdown, for a pull request, a chat, a terminal or a language model."""

import html
import re
from collections.abc import Iterable

from visdiff.report.collect import collect
from visdiff.report.text import auroc_text, mean_text, p_text
from visdiff.results import DifferenceReport

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~!$])")


def escape(text: str) -> str:
    """Escapes text so that Markdown shows exactly that text on one line, also in a table cell.

    HTML characters become entities, because Markdown passes raw tags through; Markdown's special
    characters are escaped with a backslash; line breaks become spaces.
    """
    one_line = " ".join(str(text).split())
    return _SPECIAL.sub(r"\\\1", html.escape(one_line, quote=False))


def render_markdown(report: DifferenceReport) -> str:
    """Renders the report as GitHub-flavoured Markdown, without images.

    Args:
        report: The report.

    Returns:
        Text ending in a newline.
    """
    data = collect(report, with_figures=False)
    parts = [f"# {escape(data['verdict'])}"]
    parts += [escape(sentence) for sentence in data["summary"]]
    parts += [f"> **Note.** {escape(warning)}" for warning in data["warnings"]]
    parts += _differences(data)
    parts += _separability(data)
    if data["null"]:
        parts += ["## Shuffled runs", escape(data["null"]["sentence"])]
    parts += _preflight(data)
    parts += _rejected(data)
    parts += _sets(data)
    command = [("command", data["command"])] if data["command"] else []
    parts += ["## Provenance", table(("what", "value"), [*command, *data["provenance"]])]
    if data["config"]:
        parts += ["## Configuration", table(("setting", "value"), data["config"])]
    if data["config_omitted"]:
        parts.append(f"Left at their defaults: {escape(', '.join(data['config_omitted']))}.")
    return "\n\n".join(parts) + "\n"


def table(header: Iterable[str], rows: Iterable[Iterable[str]], numbers_from: int = 99) -> str:
    """Returns a table; all cells are escaped.

    Args:
        header: Names of the columns, already escaped.
        rows: Cells.
        numbers_from: First column that is aligned to the right.
    """
    header = list(header)
    rule = [" ---: " if i >= numbers_from else " --- " for i in range(len(header))]
    lines = [" | ".join(header), "|".join(rule).strip()]
    lines += [" | ".join(escape(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _interval(d: dict) -> str:
    if d["ci_low"] is None or d["ci_high"] is None:
        return "–"
    return f"{auroc_text(d['ci_low'])} to {auroc_text(d['ci_high'])}"


def _differences(data: dict) -> list[str]:
    if not data["differences"]:
        return []
    rows = [
        (
            str(d["number"]),
            d["text"],
            d["of"],
            "yes" if d["confirmed"] else "not confirmed",
            auroc_text(d["auroc"]),
            _interval(d),
            p_text(d["q_value"]),
            mean_text(d["mean_a"]),
            mean_text(d["mean_b"]),
            *([_second_ranker(d)] if data["second_ranker"] else []),
        )
        for d in data["differences"]
    ]
    header = (
        "#",
        "difference",
        "more true of",
        "confirmed",
        "AUROC",
        "interval",
        "q",
        "mean A",
        "mean B",
        *([f"second ranker ({escape(data['second_ranker'])})"] if data["second_ranker"] else []),
    )
    parts = ["## Differences", table(header, rows, numbers_from=4)]
    synonyms = [
        f"- {d['number']}. also: {'; '.join(escape(s) for s in d['synonyms'])}"
        for d in data["differences"]
        if d["synonyms"]
    ]
    if synonyms:
        parts += ["Synonymous sentences:", "\n".join(synonyms)]
    return parts


def _second_ranker(d: dict) -> str:
    """Returns the second ranker's result with its AUROC and interval."""
    second = d["verify"]
    if second is None:
        return "–"
    if second["auroc"] is None:
        return second["outcome"]
    outcome = "DISAGREES" if second["disputed"] else second["outcome"]
    return f"{outcome}: {auroc_text(second['auroc'])}, {_interval(second)}"


def _separability(data: dict) -> list[str]:
    s = data["separability"]
    parts = ["## How much is explained"]
    if s["images"] is not None:
        rows = [
            ("how different the sets are (image features)", auroc_text(s["images"])),
            ("how much the confirmed sentences explain", auroc_text(s["sentences"])),
        ]
        parts.append(table(("cross-validated probe", "AUROC"), rows, numbers_from=1))
    return [*parts, escape(s["explanation"])]


def _preflight(data: dict) -> list[str]:
    found = data["preflight"]
    if not found["ran"]:
        return []
    lines = list(found["lines"])
    lines += [c["sentence"] or c["name"] for c in found["confounds"] if c["flagged"]]
    body = "\n".join(f"- {escape(line)}" for line in lines) or "Nothing found."
    return ["## Pre-flight", body]


def _rejected(data: dict) -> list[str]:
    if not data["rejected"]:
        return []
    rows = [
        (r["text"], r["of"], r["reason"], auroc_text(r["auroc"]), p_text(r["q_value"]))
        for r in data["rejected"]
    ]
    header = ("candidate", "more true of", "reason", "AUROC", "q")
    return ["## Rejected candidates", table(header, rows, numbers_from=3)]


def _sets(data: dict) -> list[str]:
    rows = [
        (
            side,
            card["name"],
            card["source"],
            ", ".join(card["where"]) or "–",
            f"{card['n']:,}",
            f"{card['n_discovery']:,}",
            f"{card['n_scored']:,}",
            f"{card['n_effective']:,}",
            f"{card['n_unreadable']:,}",
        )
        for side, card in data["sets"].items()
    ]
    header = ("set", "name", "source", "where", "images", "proposed from", "scored")
    header = (*header, "independent", "unreadable")
    return ["## Sets", table(header, rows, numbers_from=4)]
