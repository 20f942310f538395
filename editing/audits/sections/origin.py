"""Where the audit comes from: files, command, versions and configuration."""

from editing.audits.sections import Section, View, render_part
from visdiff.report.collect import flatten
from visdiff.report.settings import used_settings


def origin(view: View) -> Section:
    """Returns the links to the files, the command that makes the audit again, and provenance."""
    report = view.report
    made = [group.report.provenance for group in report.groups]
    rows = list(dict(report.about).items())
    if made:
        rows += [
            ("created", max(p.created for p in made) or "–"),
            ("seed", str(made[0].seed)),
            ("device", made[-1].device),
            *flatten(made[0].models, "models."),
            *flatten(made[0].versions, "versions."),
        ]
    config, omitted = used_settings(report.config)
    body = render_part(
        "origin.html.j2",
        files=_links(view),
        command=report.command,
        provenance=rows,
        config=flatten(config),
        omitted=omitted,
    )
    return Section("origin", "Where this comes from", body)


def _links(view: View) -> list[tuple[str, str]]:
    written = ("audit.json", "audit.md", "differences.csv")
    figures = [name for name in ("drift.svg", "drift.pdf") if (view.folder / name).is_file()]
    links = [(name, name) for name in (*written, *figures)]
    if view.report.next_command(view.folder) and not view.report.subjects:
        links.append(("next.toml", "next.toml"))
    if (view.folder / "images").is_dir():
        links.append(("images", "images/"))
    return links
