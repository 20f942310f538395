"""The result of an audit, with export to JSON, HTML and a folder."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from editing.audits.effects import Key, SideEffect, change_text, side_effects_of
from editing.audits.outcomes import Outcome
from editing.audits.pairs import ImagePair
from editing.audits.personalized.findings import Finding
from editing.audits.personalized.result import SubjectAudit
from editing.audits.record import read_record, to_record
from editing.audits.revival.curves import Revival
from editing.audits.views import AuditViews
from editing.metrics.drift import Drift
from editing.requests import Preserve, Request, preserved_of
from editing.requests.toml import requests_toml
from visdiff.figures.files import FORMATS, figure_files
from visdiff.files import explained, utf8, write_texts, write_whole
from visdiff.hashing import digest_bytes
from visdiff.results import Difference, DifferenceReport, to_plain

SCHEMA = 2
"""Version of the JSON layout. Version 2 added ``record``, from which an audit can be read."""

NOTABLE = 0.5
"""Smallest drift at which preserving a concept is suggested: half of the seed-noise floor."""

_LONGEST = 60
"""Longest name of a group that is its file name, in characters."""

Pairs = Mapping[str, tuple[ImagePair, ...]]
"""Sentence or concept → example pairs."""


@dataclass(frozen=True)
class GroupAudit:
    """The audit of one group of prompts.

    Attributes:
        name: Name of the group.
        meant: Whether the edit was asked to change this group.
        n: Number of image pairs.
        n_tested: Pairs used by the tests; the others were used to propose differences.
        prompts: The prompts.
        drift: Drift of the images; None without image features, or with one seed per prompt.
        by_concept: Concept → mean drift of its prompts, largest first.
        report: The comparison; set A holds the originals, q-values are corrected over all groups.
        pairs: Sentence → example pairs; "" → the pairs that moved most. Not serialised.
        metrics: Name → value of the additional measures.
        unmeasured: Additional measure → why it was not computed.
        examples: Concept → its first pairs, in a group that the edit was asked to change. Not
            serialised.
    """

    name: str
    meant: bool
    n: int
    n_tested: int
    prompts: tuple[str, ...]
    drift: Drift | None
    by_concept: Mapping[str, float]
    report: DifferenceReport
    pairs: Pairs = field(default_factory=dict, compare=False, repr=False)
    metrics: Mapping[str, float] = field(default_factory=dict)
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    examples: Pairs = field(default_factory=dict, compare=False, repr=False)

    @property
    def folder(self) -> str:
        """Folder of the group's own report, relative to that of the audit."""
        return f"groups/{file_name(self.name)}"

    @property
    def confirmed(self) -> tuple[Difference, ...]:
        """Confirmed differences; direction "B" was added by the edit, "A" was removed by it."""
        return self.report.confirmed


@dataclass(frozen=True, repr=False)
class AuditReport(AuditViews):
    """The result of an audit.

    Attributes:
        about: Facts about the edit ("method", "base", "digest").
        requests: The requests of the edit; () if unknown.
        outcomes: Whether the requests were met.
        groups: The audit of each prompt group.
        n_candidates: Number of sentences tested, over all groups.
        config: Configuration of the comparison.
        warnings: Warnings for the reader.
        command: The command that makes the audit again; "" if it was made by a call.
        subjects: The audit of each subject that the edit teaches.
        revivals: Whether erased concepts can be learnt anew; empty if that was not tested.
        same: Confirmed differences (group, sentence, direction) that name one thing, from
            `editing.audits.effects.same_things`.
        failures: The warnings on what was asked for and could not be computed.
    """

    about: Mapping[str, str]
    requests: tuple[Request, ...]
    outcomes: tuple[Outcome, ...]
    groups: tuple[GroupAudit, ...]
    n_candidates: int
    config: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    command: str = ""
    subjects: tuple[SubjectAudit, ...] = ()
    revivals: tuple[Revival, ...] = ()
    same: tuple[tuple[Key, ...], ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether all images, measures and scores that were asked for are there."""
        return not self.failures and all(g.report.is_complete for g in self.groups)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All confirmed faults: those of taught subjects by size, then side effects by size."""
        own = sorted((f for s in self.subjects for f in s.confirmed), key=lambda f: -f.size)
        return (*own, *map(_finding, self.effects))

    @property
    def effects(self) -> tuple[SideEffect, ...]:
        """What changed in the groups that the edit was not asked to change, largest first.

        A thing that was found in several groups, or in several words, is one side effect.
        """
        return side_effects_of(self.groups, self.same)

    @property
    def side_effects(self) -> tuple[tuple[GroupAudit, Difference], ...]:
        """The group and the representative difference of each of `effects`."""
        return tuple((effect.group, effect.difference) for effect in self.effects)

    def sentences(self, group: GroupAudit) -> list[str]:
        """Returns the confirmed changes of a group in words, a thing of several groups once.

        It is named in the group that represents it, with the other groups.
        """
        if group.meant:
            return [change_text(d.text, d.direction) for d in group.confirmed]
        return [
            e.sentence if len(e.groups) > 1 else e.change
            for e in self.effects
            if e.group.name == group.name
        ]

    @property
    def verdict(self) -> str:
        """The audit in one sentence."""
        effects = self.effects
        found = len(effects)
        rest = "nothing else was found to have changed"
        missing = [s for g in self.groups if not g.meant for s in g.report.failed_stages]
        if missing and not found:
            rest = f"whether anything else changed is unknown: {missing[0].sentence}"
        elif not found and (small := self._too_small):
            unknown = f"too few pairs to confirm anything in {', '.join(g.name for g in small)}"
            if all(g.meant or g in small for g in self.groups):
                rest = f"whether anything else changed is unknown: {unknown}"
            else:
                rest = f"{rest}, with {unknown}"
        elif all(g.meant for g in self.groups):
            rest = "nothing else was audited"
        if found:
            where = sorted({name for effect in effects for name in effect.groups})
            things = "1 thing" if found == 1 else f"{found} things"
            rest = f"{things} changed besides ({', '.join(where)})"
        if faults := list(dict.fromkeys(f.kind for s in self.subjects for f in s.confirmed)):
            rest = f"it has faults ({', '.join(faults)}), and {rest}"
        met = {o.met for o in self.outcomes}
        if not met:
            return f"{rest[:1].upper()}{rest[1:]}"
        known = met - {"unknown"}
        if not known:
            return (
                "Unknown whether the edit does what it was asked: the original model hardly shows "
                f"it; {rest}"
            )
        if known == {"yes"}:
            success = "does what it was asked"
        elif known & {"yes", "in part"}:
            success = "does part of what it was asked"
        else:
            success = "does not do what it was asked"
        measured = "" if known == met else ", as far as the original model shows it"
        return f"The edit {success}{measured}; {rest}"

    @property
    def _too_small(self) -> list[GroupAudit]:
        """Groups for side effects with too few pairs for two halves."""
        return [g for g in self.groups if not g.meant and g.report.double_dipped]

    @property
    def to_preserve(self) -> tuple[str, ...]:
        """Concepts outside the groups to be changed whose drift is notable, largest first."""
        known = preserved_of(self.requests)
        moved = [
            (value, concept)
            for group in self.groups
            if not group.meant
            for concept, value in group.by_concept.items()
            if concept and value >= NOTABLE and concept not in known
        ]
        return tuple(dict.fromkeys(c for _, c in sorted(moved, reverse=True)))

    def next_requests(self) -> str:
        """Returns the requests plus the concepts to preserve, as TOML for `visdiff edit run`."""
        requests = list(self.requests)
        if self.to_preserve:
            requests.append(Preserve(self.to_preserve))
        return requests_toml(requests, self.about.get("method", "uce"))

    def next_command(self, folder: str | Path) -> str:
        """Returns the command that fits the next edit.

        "" if nothing needs to be preserved, or if `visdiff edit run` cannot fit the requests. For a
        taught subject, the first command of its advice.
        """
        if self.subjects:
            return next((a.command for s in self.subjects for a in s.advice if a.command), "")
        can_be_fitted = self.requests and not any(r.needs_images for r in self.requests)
        if not self.to_preserve or not can_be_fitted:
            return ""
        base = shlex.quote(self.about.get("base", "MODEL"))
        file = shlex.quote(str(Path(folder) / "next.toml"))
        return f"visdiff edit run {base} {file} --out next.safetensors"

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON values: a summary, and under ``record`` all but the images."""
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "about": dict(self.about),
            "requests": [r.to_dict() for r in self.requests],
            "outcomes": [
                {
                    "request": o.request.to_dict(),
                    "sought": o.sought,
                    "wanted": o.wanted,
                    "met": o.met,
                    "before": asdict(o.before) | {"value": o.before.value},
                    "after": asdict(o.after) | {"value": o.after.value},
                }
                for o in self.outcomes
            ],
            "side_effects": [e.to_dict() for e in self.effects],
            "findings": [asdict(f) for f in self.findings],
            "subjects": [s.to_dict() for s in self.subjects],
            "to_preserve": list(self.to_preserve),
            "n_candidates": self.n_candidates,
            "warnings": list(self.warnings),
            "groups": [_group(g) for g in self.groups],
            "command": self.command,
            "revivals": [r.to_dict() for r in self.revivals],
            "config": dict(self.config),
            "record": to_record(self),
        }

    def to_json(self, indent: int | None = None) -> str:
        """Returns the result as JSON; NaN is written as null."""
        return json.dumps(to_plain(self.to_dict()), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Loads an audit from the output of `to_json`, such as audit.json.

        Images are not in the JSON: example pairs, thumbnails and scores are empty afterwards.

        Raises:
            InputError: The text is not JSON, not an audit, or of another schema.
        """
        return read_record(cls, text, SCHEMA)

    def save(self, folder: str | Path, figures: Sequence[str] = FORMATS) -> Path:
        """Writes the page, the tables, a figure, and each group's own report below ``groups/``.

        The files are audit.html, audit.json, audit.md, differences.csv, the figure of the drift
        (drift.svg and drift.pdf) and, if there is something to preserve, next.toml. The groups'
        reports have no figures of their own, which would take longer than everything else.

        Args:
            folder: The folder, created if missing. Files of these names are replaced.
            figures: Formats of the figure; empty for none. It takes about a second.

        Returns:
            The folder.

        Raises:
            InputError: The folder cannot be created or written to, or a format is unknown.
        """
        folder = Path(folder)
        frame = self.to_frame(full=True)
        for column in frame.columns.intersection(["synonyms", "evidence_a", "evidence_b"]):
            frame[column] = ["; ".join(items) for items in frame[column]]
        drawn = figure_files(self.plot(), "drift", figures) if figures else {}
        files = {
            "audit.json": self.to_json(indent=2) + "\n",
            "audit.md": self.to_markdown(),
            "differences.csv": frame.to_csv(index=False, lineterminator="\n"),
        }
        if self.next_command(folder) and not self.subjects:
            files["next.toml"] = self.next_requests()
        with explained("a folder that can be written to", folder):
            for name in {"next.toml", *(f"drift.{s}" for s in FORMATS)} - {*files, *drawn}:
                (folder / name).unlink(missing_ok=True)  # of an earlier audit
            for name, content in drawn.items():
                write_whole(folder / name, content)
        write_texts(folder, {**files, "audit.html": self.to_html(folder)})
        for group in self.groups:
            group.report.save(folder / group.folder, figures=())
        return folder


def file_name(group: str) -> str:
    """Returns the name of a group of prompts in paths and anchors: "class noun" → "class-noun".

    Names from the user may be no file name ("../a", "a/b") or too long; they end in a digest.
    """
    if len(group) <= _LONGEST and re.fullmatch(r"\w+( \w+)*", group):
        return group.replace(" ", "-")
    words = re.sub(r"\W+", "-", group)[:_LONGEST].strip("-")
    return f"{words}-{digest_bytes(utf8(group))[:8]}".removeprefix("-")


def drift_by_concept(
    moved: Drift | None, prompts: Sequence[str], concepts: Sequence[str]
) -> dict[str, float]:
    """Returns the mean drift of the prompts of each concept, largest first."""
    if moved is None:
        return {}
    named = dict(zip(prompts, concepts, strict=True))
    values: dict[str, list[float]] = {}
    for prompt, value in moved.by_prompt.items():
        values.setdefault(named[prompt], []).append(value)
    means = {concept: float(np.mean(v)) for concept, v in values.items()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def _finding(effect: SideEffect) -> Finding:
    d = effect.difference
    return Finding("side effect", effect.sentence, 2 * d.auroc - 1, d.q_value, True)


def _group(group: GroupAudit) -> dict[str, Any]:
    moved = group.drift
    return {
        "name": group.name,
        "meant": group.meant,
        "n": group.n,
        "n_tested": group.n_tested,
        "prompts": list(group.prompts),
        "drift": None if moved is None else asdict(moved),
        "by_concept": dict(group.by_concept),
        "metrics": dict(group.metrics),
        "verdict": group.report.verdict,
        "confirmed": [
            {
                "sentence": change_text(d.text, d.direction),
                "text": d.text,
                "direction": d.direction,
                "auroc": d.auroc,
                "q_value": d.q_value,
            }
            for d in group.confirmed
        ],
    }
