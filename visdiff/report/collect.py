"""Conversion of a `DifferenceReport` to one plain dict, the input of every renderer.

The wording and the choice of content are here; the renderers only do layout and escaping. Nothing
in the dict is escaped: hypotheses, captions, names, ids and paths are text from users and models.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from visdiff.report import figures
from visdiff.report.images import data_uri, is_pixelated
from visdiff.report.preflight import preflight_content, worst_confound
from visdiff.report.settings import command_of, flatten, used_settings
from visdiff.report.text import count_text, finite
from visdiff.results import Difference, DifferenceReport, Rejected, SetCard, score_column

MAX_EVIDENCE = 6
"""Maximum number of images shown per difference and set."""


def collect(
    report: DifferenceReport, with_figures: bool = True, max_evidence: int = MAX_EVIDENCE
) -> dict[str, Any]:
    """Returns the content of a rendered report as dicts, lists, strings and numbers.

    Args:
        report: The report.
        with_figures: Whether to compute histograms and encode thumbnails; False is fast.
        max_evidence: Maximum number of images per difference and set; fewer are stated in
            ``warnings``.

    Returns:
        A dict with ``verdict``, ``state`` ("found", "none", "incomplete" or "double-dipped"),
        ``summary``,
        ``sets``, ``differences`` (each with ``verify``, None where no second ranker checked it),
        ``second_ranker`` (its name, or None), ``separability``, ``null``, ``preflight``,
        ``rejected``, ``warnings``, ``config`` and ``provenance``. Missing numbers and NaN are None.
    """
    confirmed = sum(d.confirmed for d in report.differences)
    candidates = sum(1 + len(d.synonyms) for d in report.differences) + len(report.rejected)
    state = "double-dipped" if report.double_dipped else "found" if confirmed else "none"
    if state == "none" and report.failed_stages:
        state = "incomplete"
    scores = _Scores(report) if with_figures else None
    config, omitted = used_settings(report.config)
    return {
        "schema_version": report.schema_version,
        "verdict": _sentence_case(report.verdict),
        "state": state,
        "confirmed": confirmed,
        "candidates": candidates,
        "summary": _summary(report, state, confirmed, candidates),
        "names": {"A": report.set_a.name, "B": report.set_b.name},
        "sets": {"A": _set_card(report.set_a), "B": _set_card(report.set_b)},
        "paired_by": list(report.paired_by),
        "second_ranker": second_ranker(report),
        "ranker": _ranker(report),
        "differences": [
            _difference(report, d, number, scores, max_evidence)
            for number, d in enumerate(report.differences, 1)
        ],
        "separability": _separability(report, confirmed),
        "minimum_detectable_auroc": (floor := finite(report.minimum_detectable_auroc)),
        "detectable": None if floor is None else detectable(floor),
        "null": _null(report),
        "preflight": preflight_content(report),
        "rejected": [_rejected(report, r) for r in report.rejected],
        "warnings": [*_warnings(report), *_fewer_images(max_evidence)],
        "config": flatten(config),
        "config_omitted": omitted,
        "command": command_of(report),
        "provenance": _provenance(report),
        "created": report.provenance.created,
    }


def _sentence_case(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:]


def _summary(report: DifferenceReport, state: str, confirmed: int, candidates: int) -> list[str]:
    """Returns the sentences under the headline."""
    a, b = report.set_a, report.set_b
    images = f"{count_text(a.n_scored, 'image')} of {a.name} and {b.n_scored:,} of {b.name}"
    if has_clusters(report):
        images += (
            f" (independent observations: {a.n_effective or 0:,} and {b.n_effective or 0:,}; "
            "copies, near copies and images of one group count once)"
        )
    floor = finite(report.minimum_detectable_auroc)
    pairs = f", paired by {', '.join(report.paired_by)}" if report.paired_by else ""
    if state == "double-dipped":
        return [
            "There were too few images for a held-out split: the same images were used to propose "
            "these sentences and to test them, so the numbers are too optimistic and nothing is "
            "confirmed.",
            f"Scored on {images}{pairs}. Add images to allow a valid test.",
        ]
    tested = (
        f"Confirmed: {confirmed} of {count_text(candidates, 'candidate sentence')}. All numbers "
        f"are computed on held-out images: {images}{pairs}."
    )
    if report.cross_fitted:
        tested += (
            " The sets are small, so sentences were proposed from each half of them and tested on "
            "the other half."
        )
    if state == "found":
        return [tested, *_second_ranker_summary(report)]
    if state == "incomplete":
        missing = "; ".join(stage.sentence for stage in report.failed_stages)
        return [f"{missing[:1].upper()}{missing[1:]}. This is no result: run again.", tested]
    sentences = [tested]
    if floor is not None:
        sentences.append(
            f"{detectable(floor)} Smaller differences cannot be ruled out, nor those that no "
            "sentence proposed."
        )
    return sentences


def has_clusters(report: DifferenceReport) -> bool:
    """Returns whether a set has fewer independent observations than scored images."""
    cards = report.set_a, report.set_b
    return any(c.n_effective is not None and c.n_effective < c.n_scored for c in cards)


def detectable(auroc: float) -> str:
    """Returns a sentence about the smallest AUROC that the test of a sentence detects."""
    return (
        f"Once a sentence has been proposed, its test detects an AUROC of {auroc:.2f} or more with "
        "power 0.8; the power of proposing and testing together is lower."
    )


def _second_ranker_summary(report: DifferenceReport) -> list[str]:
    """Returns one sentence about the second ranker's results, or nothing without one."""
    name = second_ranker(report)
    if name is None:
        return []
    outcomes = [verify_text(d) for d in report.differences if d.confirmed]
    unscored = outcomes.count("no score")
    return [
        f"A second ranker ({name}) scored the confirmed differences on the same images: it agrees "
        f"on {outcomes.count('agrees')} and disagrees on {outcomes.count('disagrees')}"
        + (f"; it could not score {unscored}." if unscored else ".")
    ]


def _set_card(card: SetCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "source": card.source,
        "where": [f"{k} = {v}" for k, v in card.where.items()],
        "n": card.n,
        "n_discovery": card.n_discovery,
        "n_scored": card.n_scored,
        "n_unreadable": card.n_unreadable,
        "n_left_out": sum(card.left_out.values()),
        "n_effective": card.n_scored if card.n_effective is None else card.n_effective,
    }


def _difference(
    report: DifferenceReport,
    d: Difference,
    number: int,
    scores: "_Scores | None",
    max_evidence: int,
) -> dict[str, Any]:
    names = {"A": report.set_a.name, "B": report.set_b.name}
    return {
        "number": number,
        "text": d.text,
        "direction": d.direction,
        "of": names[d.direction],
        "confirmed": d.confirmed,
        "auroc": finite(d.auroc),
        "ci_low": finite(d.ci_low),
        "ci_high": finite(d.ci_high),
        "p_value": finite(d.p_value),
        "q_value": finite(d.q_value),
        "mean_a": finite(d.mean_a),
        "mean_b": finite(d.mean_b),
        "n_a": d.n_a,
        "n_b": d.n_b,
        "n_unscored": d.n_unscored,
        "synonyms": list(d.synonyms),
        "proposer": d.proposer,
        "round": d.round,
        "verify": _verify(d),
        "forest": figures.forest_row(d.auroc, d.ci_low, d.ci_high, d.direction),
        "histogram": _histogram(scores, d.text) if scores is not None else None,
        "evidence": {
            "A": _evidence(report, "A", d.evidence_a[:max_evidence]) if scores is not None else [],
            "B": _evidence(report, "B", d.evidence_b[:max_evidence]) if scores is not None else [],
        },
    }


def second_ranker(report: DifferenceReport) -> str | None:
    """Returns the name of the ranker that checked the confirmed differences, or None."""
    if not any(d.disputed is not None or d.verify_n_unscored for d in report.differences):
        return None
    settings = report.config.get("verify")
    return str(settings["backend"]) if isinstance(settings, Mapping) else "second ranker"


def _ranker(report: DifferenceReport) -> str:
    """Returns the name of the ranker that the scores come from."""
    settings = report.config.get("ranker")
    return str(settings.get("backend", "")) if isinstance(settings, Mapping) else ""


def verify_text(d: Difference) -> str:
    """Returns the second ranker's result: "agrees", "disagrees", "no score" or "–"."""
    if d.disputed is not None:
        return "disagrees" if d.disputed else "agrees"
    return "no score" if d.verify_n_unscored else "–"


def _verify(d: Difference) -> dict[str, Any] | None:
    if d.disputed is None and not d.verify_n_unscored:
        return None
    return {
        "outcome": verify_text(d),
        "disputed": bool(d.disputed),
        "auroc": finite(d.verify_auroc),
        "ci_low": finite(d.verify_ci_low),
        "ci_high": finite(d.verify_ci_high),
        "n_unscored": d.verify_n_unscored,
    }


class _Scores:
    """The scores of each hypothesis on the images that statistics were computed on."""

    def __init__(self, report: DifferenceReport) -> None:
        frame = report.scores
        if frame is not None and "half" in frame and not report.double_dipped:
            frame = frame[frame["half"] != "discovery"]
        self.frame = frame

    def sides(self, text: str) -> tuple[Any, Any] | None:
        """Returns the scores of A's and of B's images, or None when the sentence has no column."""
        name = score_column(text)
        if self.frame is None or name not in self.frame:
            return None
        column = self.frame[name]
        return column[self.frame["set"] == "A"], column[self.frame["set"] == "B"]


def _histogram(scores: _Scores, text: str) -> dict[str, Any] | None:
    sides = scores.sides(text)
    return figures.histogram(*sides) if sides else None


def _evidence(report: DifferenceReport, side: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    images = []
    for image_id in ids:
        key = f"{side}/{image_id}"
        data = report.thumbnails.get(key)
        images.append(
            {
                "id": image_id,
                "file": PurePath(image_id).name,
                "caption": report.captions.get(key) or "",
                "src": data_uri(data) if data else None,
                "pixelated": bool(data) and is_pixelated(data),
            }
        )
    return images


def _rejected(report: DifferenceReport, r: Rejected) -> dict[str, Any]:
    return {
        "text": r.text,
        "direction": r.direction,
        "of": report.set_a.name if r.direction == "A" else report.set_b.name,
        "reason": r.reason,
        "auroc": finite(r.auroc),
        "p_value": finite(r.p_value),
        "q_value": finite(r.q_value),
    }


def _separability(report: DifferenceReport, confirmed: int) -> dict[str, Any]:
    images = finite(report.separability.images)
    sentences = finite(report.separability.sentences)
    return {
        "images": images,
        "sentences": sentences,
        "gap": report.separability.gap,
        "explanation": _explanation(images, sentences, confirmed),
    }


def _explanation(images: float | None, sentences: float | None, confirmed: int) -> str:
    """Describes the explained separability in words."""
    if images is None:
        return (
            "How different the sets are overall was not measured: it requires image features and "
            "enough images per set for cross-validation."
        )
    if images < 0.6:
        degree = "hardly different"
    elif images < 0.75:
        degree = "somewhat different"
    elif images < 0.9:
        degree = "clearly different"
    else:
        degree = "very different"
    first = (
        f"The sets are {degree}: a probe on the image features separates them with AUROC "
        f"{images:.2f}"
    )
    if not confirmed or sentences is None:
        if images < 0.6:
            return f"{first}, where 0.5 is chance. There is little to explain."
        return (
            f"{first}, where 0.5 is chance. No confirmed sentence explains any of it: the sets "
            "differ in something that no tested sentence describes."
        )
    if images < 0.6:
        return f"{first}; the confirmed sentences alone reach {sentences:.2f}. 0.5 is chance."
    share = (sentences - 0.5) / (images - 0.5)
    if share >= 0.9:
        amount = "practically all of it"
    elif share >= 0.6:
        amount = "most of it"
    elif share >= 0.25:
        amount = "part of it"
    else:
        amount = "little of it"
    rest = "" if share >= 0.9 else " The rest is a difference that no confirmed sentence describes."
    return (
        f"{first}. The confirmed sentences alone reach {sentences:.2f}, so they explain {amount} "
        f"(0.5 is chance).{rest}"
    )


def _null(report: DifferenceReport) -> dict[str, Any] | None:
    null = report.null
    if null is None:
        return None
    times = count_text(null.repeats, "time")
    if null.with_any_confirmed:
        found = f"{null.with_any_confirmed:,} of these runs confirmed something"
    else:
        found = "none of these runs confirmed anything"
    return {
        "repeats": null.repeats,
        "with_any_confirmed": null.with_any_confirmed,
        "confirmed_per_repeat": list(null.confirmed_per_repeat),
        "sentence": f"The run was repeated {times} with shuffled set membership: {found}.",
    }


def _warnings(report: DifferenceReport) -> list[str]:
    """Returns the warnings; of those of the pre-flight section only the worst, and their number."""
    in_preflight = [str(w) for w in (report.preflight or {}).get("warnings") or ()]
    warnings = [w for w in report.warnings if w not in in_preflight]
    if in_preflight:
        count = count_text(len(in_preflight), "warning")
        worst = worst_confound(report)
        first = f"{worst}. A sentence may only restate this. " if worst else ""
        warnings.insert(0, f"{first}The pre-flight section has {count} about the files.")
    return warnings


def _fewer_images(max_evidence: int) -> list[str]:
    if max_evidence >= MAX_EVIDENCE:
        return []
    return [
        f"To keep this page small, at most {count_text(max_evidence, 'image')} of each set "
        "are shown per difference; the JSON file names all."
    ]


def _provenance(report: DifferenceReport) -> list[tuple[str, str]]:
    p = report.provenance
    rows = [("created", p.created or "–"), ("seed", str(p.seed)), ("device", p.device)]
    rows += flatten(p.models, "models.")
    rows += flatten(p.prompts, "prompts.")
    rows += [(f"seconds.{stage}", f"{seconds:.1f}") for stage, seconds in p.seconds.items()]
    rows += [(f"tokens.{kind}", f"{n:,}") for kind, n in p.tokens.items()]
    rows += [("cost", f"US$ {p.cost:.4f}")] if p.cost is not None else []
    rows.append(("cache", f"{p.cache_hits:,} hits, {p.cache_misses:,} misses"))
    rows += flatten(p.versions, "versions.")
    return rows
