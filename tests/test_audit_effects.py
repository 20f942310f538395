"""The side effects of an audit: each thing once, as a whole phrase, with the pairs that show it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sample_reports import sample_audit

from editing.audits.effects import change_text, same_things, side_effects_of
from editing.audits.pairs import MAX_PAIRS, evident_changes
from editing.audits.report import GroupAudit
from visdiff.results import Difference, Direction

N = 40
RNG = np.random.default_rng(0)
SKIN = RNG.normal(size=N)
"""Scores of a phrase about skin; other phrases of it have these scores with noise."""

Claim = tuple[str, Direction, float]


def group(
    name: str,
    claims: list[Claim],
    scores: Mapping[str, np.ndarray] | None = None,
    meant: bool = False,
) -> GroupAudit:
    """Returns the audit of a group with confirmed differences (text, direction, AUROC)."""
    base = sample_audit().groups[0]
    differences = tuple(
        Difference(t, d, auroc, auroc - 0.1, 1.0, 1e-6, 1e-5, True, 0.2, 0.3, 24, 24)
        for t, d, auroc in claims
    )
    half = N // 2
    columns: dict[str, Any] = {"set": ["A"] * half + ["B"] * half, "id": [*range(half)] * 2}
    table = pd.DataFrame(columns | dict(scores or {}))
    report = dataclasses.replace(base.report, differences=differences, scores=table)
    return dataclasses.replace(base, name=name, meant=meant, report=report)


def sentences(groups: list[GroupAudit]) -> list[str]:
    return [e.sentence for e in side_effects_of(groups, same_things(groups, 0.9))]


def noisy(scores: np.ndarray, noise: float) -> np.ndarray:
    return scores + noise * np.random.default_rng(1).normal(size=N)


def test_a_phrase_of_two_groups_is_one_side_effect_with_both_named() -> None:
    groups = [
        group("things", [("a pizza", "B", 0.7)]),
        group("places", [("pizzas", "B", 0.8), ("a pizza", "A", 0.6)]),
        group("targets", [("a pizza", "B", 0.9)], meant=True),
    ]
    # Without common scores, the same subject; what comes and what goes are two things.
    assert sentences(groups) == [
        "pizzas: more often (places, things)",
        "a pizza: less often (places)",
    ]


@pytest.mark.parametrize(
    ("noise", "gap", "expected"),
    [
        # The whole phrase represents its fragment unless it is clearly weaker.
        (0.3, 0.05, ["with dark skin: more often (empty prompt, people)"]),
        (0.3, 0.20, ["skin: more often (people, empty prompt)"]),
        # Scores that do not agree: two things that share a word.
        (5.0, 0.05, ["skin: more often (people)", "with dark skin: more often (empty prompt)"]),
    ],
)
def test_fragments_are_folded_over_groups(noise: float, gap: float, expected: list[str]) -> None:
    scores = {"skin": SKIN, "with dark skin": noisy(SKIN, noise)}
    groups = [
        group("people", [("skin", "B", 0.8)], scores),
        group("empty prompt", [("with dark skin", "B", 0.8 - gap)]),
    ]
    assert sentences(groups) == expected


def test_a_narrower_sentence_does_not_represent_the_wider_one() -> None:
    scores = {"on the grass": SKIN, "a robot on the grass": noisy(SKIN, 0.2)}
    groups = [
        group("places", [("on the grass", "A", 0.8), ("a robot on the grass", "A", 0.78)], scores)
    ]
    assert sentences(groups) == ["on the grass: less often (places)"]


def test_synonyms_by_their_scores_alone_are_one_side_effect() -> None:
    scores = {"a plane": SKIN, "an aircraft": noisy(SKIN, 0.05)}
    groups = [
        group("things", [("a plane", "B", 0.8)], scores),
        group("places", [("an aircraft", "B", 0.7)]),
    ]
    assert sentences(groups) == ["a plane: more often (things, places)"]


def test_all_outputs_count_the_same_things() -> None:
    report = sample_audit()
    data = report.to_dict()
    n = len(report.effects)
    assert n == len(data["side_effects"]) == len(data["findings"])
    assert f"{n} things changed besides" in report.verdict
    assert [f.sentence for f in report.findings] == [e["sentence"] for e in data["side_effects"]]
    stated = [s for g in report.groups if not g.meant for s in report.sentences(g)]
    assert len(stated) == n
    confirmed = sum(len(g.confirmed) for g in report.groups if not g.meant)
    assert confirmed == sum(len(e["found"]) for e in data["side_effects"])
    assert change_text("a hospital", "B") == "a hospital: more often"


@pytest.mark.parametrize("direction", ["A", "B"])
def test_evidence_is_the_pairs_in_which_the_thing_comes_or_goes(direction: Direction) -> None:
    # The first image shows the thing twice; the last pair changes most, and does not show it.
    before = [0.9, 0.1, 0.2, math.nan, 0.3, 0.1, 0.1, -0.9]
    after = [0.9, 0.8, 0.1, 0.9, 0.5, 0.2, 0.9, 0.1]
    if direction == "A":
        before, after = after, before
    assert evident_changes(before, after, direction) == [6, 1, 7, 4, 5][:MAX_PAIRS]
    assert evident_changes(after, before, direction) == [2]
    assert evident_changes([math.nan], [math.nan], direction) == []


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_evidence_does_not_depend_on_how_often_the_thing_is_drawn(share: float) -> None:
    rng, shown = np.random.default_rng(0), np.arange(40) < 40 * share
    before = rng.uniform(-0.5, 0.3, 40)
    after = np.where(shown, rng.uniform(0.7, 1, 40), rng.uniform(-0.5, 0.3, 40))
    found = evident_changes(before.tolist(), after.tolist(), "B")
    assert len(found) == MAX_PAIRS
    assert shown[found].all()


def test_groups_that_could_not_confirm_anything_are_no_result() -> None:
    def small(group: GroupAudit) -> GroupAudit:
        report = dataclasses.replace(group.report, double_dipped=True)
        return dataclasses.replace(group, report=report)

    meant = group("targets", [], meant=True)
    of = dataclasses.replace
    report = of(sample_audit(), same=(), subjects=(), groups=(meant, group("things", [])))
    assert "nothing else was found" in report.verdict
    some = of(report, groups=(meant, group("things", []), small(group("places", []))))
    assert "nothing else was found" in some.verdict
    assert "too few pairs to confirm anything in places" in some.verdict
    none = of(report, groups=(meant, small(group("things", [])), small(group("places", []))))
    assert "nothing else" not in none.verdict
    assert "unknown: too few pairs to confirm anything in things, places" in none.verdict
    assert of(report, groups=(meant,)).verdict.endswith("nothing else was audited")


@pytest.mark.parametrize(
    ("met", "verdict"),
    [
        (["yes", "yes"], "The edit does what it was asked; "),
        (["yes", "no"], "The edit does part of what it was asked; "),
        (["no"], "The edit does not do what it was asked; "),
        (["yes", "unknown"], "The edit does what it was asked, as far as the original model"),
        (["unknown"], "Unknown whether the edit does what it was asked"),
        ([], "Nothing else was found"),
    ],
)
def test_what_the_original_model_hardly_draws_is_not_called_done(
    met: list[str], verdict: str
) -> None:
    base = sample_audit()
    (outcome, *_) = base.outcomes
    outcomes = tuple(dataclasses.replace(outcome, met=word) for word in met)
    groups = (group("things", []),)
    report = dataclasses.replace(base, same=(), subjects=(), groups=groups, outcomes=outcomes)
    assert report.verdict.startswith(verdict)
