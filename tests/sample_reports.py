"""A comparison and an audit with all kinds of content, made without any model."""

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from editing.audits.outcomes import Outcome
from editing.audits.pairs import ImagePair
from editing.audits.personalized.advice import Advice
from editing.audits.personalized.checkpoints import Checkpoint
from editing.audits.personalized.findings import Finding
from editing.audits.personalized.measures import Measured
from editing.audits.personalized.result import SubjectAudit
from editing.audits.report import AuditReport, GroupAudit
from editing.audits.revival import Curve, Revival, compare
from editing.metrics.drift import Drift
from editing.metrics.proportions import proportion
from editing.metrics.subject import Estimate
from editing.requests import Debias, Erase, Learn, Preserve
from visdiff.config import Config
from visdiff.results import (
    Difference,
    DifferenceReport,
    Direction,
    NullRun,
    Provenance,
    Rejected,
    Separability,
    SetCard,
)

BRIGHTER = "Brightness alone separates the sets (AUROC 0.97): day drawings are brighter."


def drawing(shape: str, colour: str, background: str, rng: np.random.Generator) -> bytes:
    """Returns a 64 px drawing of one shape, as PNG bytes."""
    image = Image.new("RGB", (64, 64), background)
    draw = ImageDraw.Draw(image)
    x, y, r = rng.integers(22, 42), rng.integers(22, 42), rng.integers(10, 20)
    box = [int(x - r), int(y - r), int(x + r), int(y + r)]
    if shape == "circle":
        draw.ellipse(box, fill=colour, outline="black", width=2)
    elif shape == "square":
        draw.rectangle(box, fill=colour, outline="black", width=2)
    else:
        draw.polygon(
            [(int(x), box[1]), (box[0], box[3]), (box[2], box[3])], fill=colour, outline="black"
        )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# text, direction, AUROC, low, high, q, confirmed, synonyms
FOUND = [
    (
        "a red shape on a dark background",
        "A",
        0.94,
        0.90,
        0.97,
        2e-14,
        True,
        ("dark night scenes", "shapes in red"),
    ),
    ("a circle", "B", 0.86, 0.80, 0.91, 3e-9, True, ()),
    (
        "two shapes that overlap, one partly hidden behind the other",
        "A",
        0.74,
        0.66,
        0.81,
        0.0004,
        True,
        ("overlap",),
    ),
    ("a thick outline", "B", 0.64, 0.55, 0.72, 0.031, True, ()),
    ("a grainy texture", "A", 0.58, 0.48, 0.67, 0.19, False, ()),
    ("a shape in the upper left corner", "B", 0.55, 0.46, 0.64, 0.41, False, ("top left",)),
]


def fake_report(**changes: Any) -> DifferenceReport:
    """Returns a report like those of `visdiff.compare`, with drawings, scores and captions."""
    rng = np.random.default_rng(0)
    a, b = [f"night/{i:03d}.png" for i in range(70)], [f"day/{i:03d}.png" for i in range(68)]
    thumbnails, captions = {}, {}
    for i in range(12):
        thumbnails[f"A/{a[i]}"] = drawing("square" if i % 2 else "triangle", "#d33", "#223", rng)
        thumbnails[f"B/{b[i]}"] = drawing("circle", "#38c" if i % 3 else "#e9b", "#f3efe2", rng)
        captions[f"A/{a[i]}"] = (
            "a red square on a dark background" if i % 2 else "a red triangle at night"
        )
        captions[f"B/{b[i]}"] = (
            "a blue circle on a pale ground" if i % 3 else "a pink circle with a thick outline"
        )
    columns: dict[str, Any] = {
        "set": ["A"] * 70 + ["B"] * 68 + ["A", "B"],
        "id": [*a, *b, "night/old.png", "day/old.png"],
        "half": ["scoring"] * 138 + ["discovery"] * 2,
    }
    differences = []
    for k, (text, direction, auroc, low, high, q, confirmed, synonyms) in enumerate(FOUND):
        shift = 0.03 * (auroc - 0.5) * 4 * (1 if direction == "A" else -1)
        scores = rng.normal(0.24, 0.03, 140) + shift * (np.array(columns["set"]) == "A")
        scores[-2:] = 99.0  # discovery images: must not be plotted
        columns[text] = scores.astype(np.float32)
        differences.append(
            Difference(
                text,
                direction,
                auroc,
                low,
                high,
                q / 7,
                q,
                confirmed,
                float(scores[:70].mean()),
                float(scores[70:138].mean()),
                70,
                68,
                2 if k == 1 else 0,
                synonyms,
                tuple(a[(k + j) % 12] for j in range(6)),
                tuple(b[(k + j) % 12] for j in range(6)),
                "ngrams",
            )
        )
    values: dict[str, Any] = {
        "verdict": "4 confirmed differences",
        "differences": tuple(differences),
        "rejected": (
            Rejected("a blue shape", "B", "AUROC 0.53 is below 0.55", 0.53, 0.28, 0.44),
            Rejected("a photograph of a dog", "A", "no image could be scored"),
        ),
        "separability": Separability(0.98, 0.91),
        "set_a": SetCard("night drawings", "data/night", 140, 70, 70, 1, {"group_name": "night"}),
        "set_b": SetCard("day drawings", "data/day", 138, 70, 68),
        "minimum_detectable_auroc": 0.62,
        "preflight": {
            "duplicates_within_a": 2,
            "duplicates_within_b": 0,
            "cross_duplicates": [("night/007.png", "day/112.png")],
            "unreadable_a": [("night/013.png", "truncated file")],
            "unreadable_b": [],
            "confounds": [
                {
                    "name": "aspect",
                    "auroc": 0.5,
                    "mean_a": 1.0,
                    "mean_b": 1.0,
                    "p_value": 1.0,
                    "q_value": 1.0,
                    "flagged": False,
                    "sentence": "",
                },
                {
                    "name": "brightness",
                    "auroc": 0.03,
                    "mean_a": 41.2,
                    "mean_b": 228.9,
                    "p_value": 1e-20,
                    "q_value": 1e-19,
                    "flagged": True,
                    "sentence": BRIGHTER,
                    "short": "B is brighter",
                },
            ],
        },
        "null": NullRun(20, 1, (0,) * 19 + (2,)),
        "config": {
            "preset": "miniature",
            "rank": {"model": "miniature", "min_auroc": 0.55},
            "seed": 0,
        },
        "provenance": Provenance(
            versions={"visdiff": "0.1.0", "torch": "2.13.0"},
            models={"ranker": {"id": "miniature/clip", "weights": "sha256:1f3a"}},
            prompts={"describe-v1": "9c1d"},
            seed=0,
            device="cpu",
            seconds={"caption": 41.3, "rank": 3.2},
            tokens={"prompt": 0},
            cache_hits=138,
            cache_misses=140,
            created="2026-11-21T09:30:00+00:00",
        ),
        "warnings": (
            "Brightness alone separates the sets (AUROC 0.97): day drawings are brighter.",
        ),
        "scores": pd.DataFrame(columns),
        "thumbnails": thumbnails,
        "captions": captions,
    }
    return DifferenceReport(**{**values, **changes})


SIDE_EFFECTS: Mapping[str, tuple[tuple[str, Direction, float], ...]] = {
    "targets": (("a church with a tower", "A", 0.97), ("a hospital", "B", 0.81)),
    "paraphrases": (("a stone building", "A", 0.93),),
    "neighbours": (("a castle with a flag", "A", 0.88), ("a pale sky", "B", 0.71)),
    "preserved": (),
    "things": (("a pale sky", "B", 0.74),),
    "people": (("a smiling person", "A", 0.79), ("a dark background", "B", 0.77)),
    "places": (),
    "styles": (("a thick outline", "B", 0.69),),
    "empty prompt": (("a grey frame", "B", 0.66),),
}
"""Group → (sentence, direction, AUROC) of its confirmed differences."""


def sample_audit(image: bytes | None = None, **changes: Any) -> AuditReport:
    """Returns an audit like that of `visdiff demo`: nine groups, two requests, side effects.

    Args:
        image: Thumbnail of every pair; by default drawings.
        **changes: Fields of the report.
    """
    rng, compared = np.random.default_rng(0), fake_report()

    def pairs(
        n: int, prompt: str, scores: tuple[float, float] | None = None
    ) -> tuple[ImagePair, ...]:
        return tuple(
            ImagePair(
                prompt,
                str(100 + i),
                image or drawing("square", "#d33", "#aac", rng),
                image or drawing("circle", "#38c", "#f3efe2", rng),
                scores,
            )
            for i in range(n)
        )

    groups = []
    for number, (name, found) in enumerate(SIDE_EFFECTS.items()):
        meant = name in ("targets", "paraphrases")
        differences = tuple(
            Difference(
                text, direction, auroc, auroc - 0.06, auroc + 0.02, 1e-6, 3e-5, True,
                0.2, 0.3, 24, 24, proposer="ngrams",
            )
            for text, direction, auroc in found
        )  # fmt: skip
        value = 1.3 if meant else 0.2 + 0.05 * number
        groups.append(
            GroupAudit(
                name=name,
                meant=meant,
                n=48,
                n_tested=24,
                prompts=(f"a {name} prompt", f"another {name} prompt"),
                drift=Drift(value, value - 0.1, value + 0.1, value, 1.0, {}),
                by_concept={"a castle": value, "an owl": 0.1},
                report=dataclasses.replace(
                    compared, differences=differences, rejected=(), thumbnails={}
                ),
                pairs={
                    d.text: pairs(4, f"a {name} prompt, {d.text}", (0.21, 0.3)) for d in differences
                }
                | {"": pairs(4, f"a {name} prompt")},
                examples={c: pairs(2, f"a {c}") for c in ("church", "judge")} if meant else {},
                metrics={"LPIPS": 0.21},
            )
        )
    shares = [proportion([True] * k + [False] * (40 - k)) for k in (38, 1, 30, 24)]
    church, judge = Erase("church"), Debias("judge", {"man": 0.5, "woman": 0.5})
    values: dict[str, Any] = {
        "about": {"method": "uce", "base": "miniature", "digest": "1f3a"},
        "requests": (church, judge, Preserve(("a castle",))),
        "outcomes": (
            Outcome.of(church, "church", *shares[:2]),
            Outcome.of(judge, "man", *shares[2:]),
        ),
        "groups": tuple(groups),
        "n_candidates": 412,
        "config": Config.of("miniature").model_dump(mode="json"),
        "warnings": ("3 images without a partner were left out.",),
        "command": "visdiff audit --base miniature --edit church.safetensors --out audit",
    }
    return AuditReport(**{**values, **changes})


def sample_subject() -> SubjectAudit:
    """Returns the audit of a taught subject with faults, measures, kept steps and advice."""
    leak = "“a olis fox” draws a plain background in 22 of 24 (74–98 %) images, “a fox” in 3 of 24"
    copies = "9 of 24 images copy a reference"
    return SubjectAudit(
        request=Learn("olis", "fox", "1f3a"),
        recognised=None,
        measures=tuple(
            Measured(
                name,
                Estimate(0.4, low, low + 0.2, 24, 6),
                Estimate(0.8, low, low + 0.2, 24, 6),
                real,
            )
            for name, low, real in (("DINO", 0.3, 0.9), ("PRES", 0.2, float("nan")))
        ),
        findings=(
            Finding("background", leak, 0.8, 2e-6, confirmed=True, word="background"),
            Finding("copies", copies, 0.1, 0.2, confirmed=False),
        ),
        checkpoints=tuple(
            Checkpoint(step, 0.2 * i, 0.05 * i**2, best=i != 2)
            for i, step in enumerate((100, 200, 300, 400), 1)
        ),
        recommended=300,
        advice=(
            Advice(
                "Describe the background in the captions and teach the subject again.",
                "visdiff personalize lora miniature photographs/of-the-fox --noun fox "
                "--set prior_images=2000 --out fox.safetensors",
            ),
            Advice("Use fewer steps."),
        ),
        missing={"attention leak": "the edit was not passed", "DIV": "the edit was not passed"},
        notes=("The subject has 5 images; more would narrow the intervals.",),
    )


def sample_revivals() -> tuple[Revival, ...]:
    """Returns the tests of a hidden and of an erased concept, with images."""
    rng, steps = np.random.default_rng(0), (0, 25, 50, 100, 200)

    def curve(*counts: int) -> Curve:
        return Curve(steps, tuple((True,) * n + (False,) * (16 - n) for n in counts))

    soon, never = curve(0, 14, 15, 16, 16), curve(0, 0, 0, 1, 1)
    late = Image.new("RGB", (256, 64), "#38c")
    buffer = io.BytesIO()
    late.save(buffer, "PNG")
    by_name = {k: proportion([k == "original"] * 16) for k in ("original", "edited")}
    return tuple(
        Revival(
            concept,
            by_name,
            tuple(compare(n, soon, edited, never, 0.5, rng) for n in (1, 4, 16)),
            ("The classifier recognises 15 of 16 images of the original model.",),
            {"Edited model, learnt from 16 pictures, after 0 to 200 steps": buffer.getvalue()},
        )
        for concept, edited in (("church", soon), ("a very old windmill", never))
    )
