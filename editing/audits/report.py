"""What an audit returns: frozen, with doors to JSON, a page and a folder."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from editing.audits.outcomes import Outcome
from editing.audits.pairs import ShownPair
from editing.metrics.drift import Drift
from editing.requests import Preserve, Request, preserved_of
from editing.requests.toml import requests_toml
from visdiff.files import write_texts
from visdiff.results import Difference, DifferenceReport, to_plain

SCHEMA = 1

NOTABLE = 0.5
"""Drift from which a concept is worth preserving: half of what another seed would do."""


@dataclass(frozen=True)
class GroupAudit:
    """One group of prompts.

    Attributes:
        name: The group.
        meant: Whether the edit was asked to change it.
        n: Pairs of images.
        n_tested: Pairs that the tests saw; the others proposed.
        prompts: Its prompts.
        drift: How far its images moved; None without image features, or with one seed a prompt.
        by_concept: The same by what the prompts name, farthest first.
        report: The comparison, set A the originals; its q-values are corrected over all groups.
        pairs: Sentence → pairs to show; "" → those that moved most.
        metrics: Name → value of the measures that were asked for.
    """

    name: str
    meant: bool
    n: int
    n_tested: int
    prompts: tuple[str, ...]
    drift: Drift | None
    by_concept: Mapping[str, float]
    report: DifferenceReport
    pairs: Mapping[str, tuple[ShownPair, ...]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def confirmed(self) -> tuple[Difference, ...]:
        """What changed, in words; direction "B" is what the edit brought, "A" what it took."""
        return self.report.confirmed


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit.

    Attributes:
        about: What is known of the edit ("method", "base", "digest").
        requests: What it was asked for; () when that is not known.
        outcomes: Whether it did it.
        groups: What changed, group by group.
        n_candidates: Sentences that were tested, over all groups.
        config: The comparison's configuration.
        warnings: What the reader must know.
    """

    about: Mapping[str, str]
    requests: tuple[Request, ...]
    outcomes: tuple[Outcome, ...]
    groups: tuple[GroupAudit, ...]
    n_candidates: int
    config: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def side_effects(self) -> tuple[tuple[GroupAudit, Difference], ...]:
        """Confirmed differences of the groups that the edit was not asked to change."""
        return tuple((g, d) for g in self.groups if not g.meant for d in g.confirmed)

    @property
    def verdict(self) -> str:
        """The audit in one sentence."""
        found = len(self.side_effects)
        aside = "nothing else was found to have changed"
        if found:
            where = sorted({g.name for g, _ in self.side_effects})
            things = "1 thing" if found == 1 else f"{found} things"
            aside = f"{things} changed besides ({', '.join(where)})"
        met = [o.met for o in self.outcomes]
        if not met:
            return f"{aside[:1].upper()}{aside[1:]}"
        done = "in part" if "yes" in met or "in part" in met else "not"
        done = "wholly" if set(met) == {"yes"} else done
        told = {"wholly": "does what it was asked", "in part": "does part of what it was asked"}
        return f"The edit {told.get(done, 'does not do what it was asked')}; {aside}"

    @property
    def to_preserve(self) -> tuple[str, ...]:
        """Concepts outside the meant groups that moved notably, farthest first."""
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
        """The requests with what is to be preserved next time, as `visdiff edit run` reads them."""
        requests = list(self.requests)
        if self.to_preserve:
            requests.append(Preserve(self.to_preserve))
        return requests_toml(requests, self.about.get("method", "uce"))

    def next_command(self, folder: str | Path) -> str:
        """The command that makes the next edit; "" when nothing needs to be preserved."""
        if not self.to_preserve or not self.requests:
            return ""
        base = shlex.quote(self.about.get("base", "MODEL"))
        file = shlex.quote(str(Path(folder) / "next.toml"))
        return f"visdiff edit run {base} {file} --out next.safetensors"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values, with every group's whole comparison."""
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
            "to_preserve": list(self.to_preserve),
            "n_candidates": self.n_candidates,
            "warnings": list(self.warnings),
            "groups": [_group(g) for g in self.groups],
            "config": dict(self.config),
        }

    def to_json(self, indent: int | None = None) -> str:
        """The result as JSON; NaN is written as null."""
        return json.dumps(to_plain(self.to_dict()), indent=indent, allow_nan=False)

    def to_html(self, folder: str | Path = ".") -> str:
        """The result as one page that opens offline."""
        from editing.audits.page import render

        return render(self, folder)

    def save(self, folder: str | Path) -> Path:
        """Writes audit.html, audit.json, next.toml and each group's own report below ``groups/``.

        Returns:
            The folder.

        Raises:
            InputError: The folder cannot be made or written to.
        """
        folder = Path(folder)
        files = {"audit.html": self.to_html(folder), "audit.json": self.to_json(indent=2) + "\n"}
        if self.next_command(folder):
            files["next.toml"] = self.next_requests()
        write_texts(folder, files)
        for group in self.groups:
            group.report.save(folder / "groups" / group.name.replace(" ", "-"))
        return folder

    def _repr_html_(self) -> str:
        from editing.audits.page import render_fragment

        return render_fragment(self)


def drift_by_concept(
    moved: Drift | None, prompts: Sequence[str], concepts: Sequence[str]
) -> dict[str, float]:
    """Averages the drift of prompts that name the same concept, farthest first."""
    if moved is None:
        return {}
    named = dict(zip(prompts, concepts, strict=True))
    values: dict[str, list[float]] = {}
    for prompt, value in moved.by_prompt.items():
        values.setdefault(named[prompt], []).append(value)
    means = {concept: float(np.mean(v)) for concept, v in values.items()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


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
            {"text": d.text, "direction": d.direction, "auroc": d.auroc, "q_value": d.q_value}
            for d in group.confirmed
        ],
    }
