"""The table of DreamBench: means over subjects, beside the published ones, and the calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from editing.metrics.dreambench import Published, published
from editing.metrics.subject import Estimate, estimate, real_likeness
from editing.personalize.dreambench import DreamBench
from editing.personalize.encoders import Encoders, encode_images
from editing.personalize.reference_images import open_images
from editing.personalize.scoring import TITLES
from visdiff.errors import InputError

COLUMNS = ("dino", "clip_i", "clip_t_vague", "clip_t_specific")
"""Measures that are published."""

_REAL = ("dino", "dinov2", "clip_i")


def calibrate(
    bench: DreamBench, encoders: Encoders, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Returns what DINO, DINOv2 and CLIP-I are for real images, as means over the subjects.

    The published values are in the first row of `editing.metrics.dreambench.published`; other
    values mean that the encoder or its preprocessing differs.

    Raises:
        InputError: No subject has two images.
    """
    values: dict[str, list[float]] = {}
    for item in bench.subjects:
        found = encode_images(open_images(item.folder).images, encoders.present)
        for role, features in found.features.items():
            if len(features) > 1:
                values.setdefault(role, []).append(real_likeness(features))
    if not values:
        raise InputError(
            f"Expected two images of a subject in {bench.folder} and an encoder, got none; check "
            "the folder."
        )
    names = {"clip": "clip_i"}
    return {
        names.get(role, role): estimate(own, range(len(own)), rng) for role, own in values.items()
    }


def summary(lines: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> dict[str, Estimate]:
    """Returns measure → mean over subjects, with an interval over subjects."""
    found = {}
    for name in TITLES:
        own = [x["measures"][name]["value"] for x in lines if name in x["measures"]]
        if own:
            found[name] = estimate(own, range(len(own)), rng)
    return found


def real_summary(
    lines: Sequence[Mapping[str, Any]], rng: np.random.Generator
) -> dict[str, Estimate]:
    """Returns measure → mean over subjects of real images against each other."""
    found = {}
    for name in _REAL:
        own = [x["real"][name] for x in lines if name in x["real"]]
        if own:
            found[name] = estimate(own, range(len(own)), rng)
    return found


def table(
    ours: Mapping[str, Mapping[str, Estimate]], known: Sequence[Published] | None = None
) -> str:
    """Returns the published table with rows of our own, in Markdown.

    Args:
        ours: Name of a row → its means.
        known: The published rows; all by default.
    """
    rows = [
        (f"{p.system} (published)", {n: getattr(p, n) for n in COLUMNS})
        for p in (published() if known is None else known)
    ]
    head = "| system | " + " | ".join(TITLES[name] for name in COLUMNS) + " |"
    rule = "|---|" + "---|" * len(COLUMNS)
    lines = [head, rule]
    for system, values in rows:
        lines.append(f"| {system} | " + " | ".join(f"{values[n]:.3f}" for n in COLUMNS) + " |")
    for system, means in ours.items():
        cells = [_cell(means[n]) if n in means else "–" for n in COLUMNS]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(found: Estimate) -> str:
    if np.isnan(found.low):
        return f"{found.value:.3f}"
    return f"{found.value:.3f} ({found.low:.3f}–{found.high:.3f})"
